"""What users said, in words: from a source's rows to a table in numbers, for the users and items that are left."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ilrec_cli import artifacts
from ilrec_cli.stages._dataset import Numbered


def write(folder: Path, made: Numbered, said: pl.DataFrame | None) -> dict[str, int]:
    """Write the table `said` where the source has such texts; what was dropped, counted."""
    if said is None:
        return {}
    users, items = (
        table.select(pl.col("raw_id").alias(name), number=name)
        for name, table in (("user", made.users), ("item", made.items))
    )
    known = said.join(users, on="user", how="inner", maintain_order="left", suffix="_user")
    found = known.join(items.rename({"number": "wanted"}), on="item", how="left", maintain_order="left")
    lost = pl.col("wanted").is_null() & pl.col("item").is_not_null()
    nothing = pl.lit([], dtype=pl.List(pl.String))
    table = found.select(
        "preferences", user="number", item=pl.col("wanted").fill_null(-1),
        queries=pl.when(lost).then(nothing).otherwise(pl.col("queries")), lost=lost,
    ).sort("user")  # fmt: skip
    artifacts.write_table(
        folder, "said", {name: table[name].to_arrow() for name in ("user", "item", "preferences", "queries")}
    )
    return {
        "texts of users that are not there": len(said) - len(known),
        "queries for items that are not there": int(table["lost"].sum()),
    }
