"""A preprocessed dataset in another tool's format: RecBole's atomic files, LC-Rec's JSON, CSV."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.datasets import _text
from ilrec_cli.errors import UserError
from ilrec_cli.settings import ConvertData
from ilrec_cli.stages import _inputs

Files = dict[str, str]
TEXT = ("title", "description", "brand")


def run(config: ConvertData) -> dict[str, Any]:
    """Write the files of a format; reading them with `ilrec preprocess` gives the same sequences."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    folder = config.output or _inputs.dataset_dir(config) / "converted" / config.to
    writers: dict[str, Callable[[Artifact, str], Files]] = {"recbole": _recbole, "lcrec": _lcrec, "csv": _csv}
    files = writers[config.to](data, config.dataset)
    there = [name for name in files if (folder / name).exists()]
    if there and not config.overwrite:
        raise UserError(f"{folder / there[0]} is there already. Choose another --output, or --overwrite it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror}). Choose another --output") from error
    for name, text in files.items():
        artifacts.write_text(folder / name, text)
    rule = data.json("card.json")["split"]["rule"]
    if rule == "given" and config.to != "csv":
        console.warn("the published split is not part of this format; --to csv keeps it as a column")
    console.say(
        f"Written: {', '.join(files)}\nIn: {folder}\nRead again: ilrec preprocess --dataset NAME --raw-dir {folder}"
    )
    return {"path": str(folder), "files": list(files)}


def _recbole(data: Artifact, name: str) -> Files:
    """`.inter` and `.item`; ids must not hold tabs or line ends, and texts lose them."""
    rows = _interactions(data).rename({"user": "user_id:token", "item": "item_id:token"})
    rows = rows.rename({"rating": "rating:float", "timestamp": "timestamp:float"}, strict=False)
    items = pl.DataFrame(pl.from_arrow(data.table("items")))
    columns = {"item_id:token": items["raw_id"]}
    for field in TEXT:
        columns[f"{field}:token_seq"] = pl.Series(
            [" ".join(_kept(text).split()) for text in items[field]], dtype=pl.String
        )
    columns["categories:token_seq"] = pl.Series([_list(value) for value in items["categories"]], dtype=pl.String)
    for ids in (rows["user_id:token"], columns["item_id:token"]):
        _refuse(ids.filter(ids.str.contains("[\t\r\n]")))
    write = {"separator": "\t", "quote_style": "never"}
    return {f"{name}.inter": rows.write_csv(**write), f"{name}.item": pl.DataFrame(columns).write_csv(**write)}  # type: ignore[call-overload]


def _lcrec(data: Artifact, name: str) -> Files:
    """`.inter.json`, `.item.json`, and the tables of original ids."""
    sequences = data.table("sequences")["items"].to_pylist()
    items, users = data.table("items").to_pylist(), data.table("users")["raw_id"].to_pylist()
    text = {
        str(row["item"]): {**{field: _kept(row[field]) for field in TEXT}, "categories": _list(row["categories"])}
        for row in items
    }
    numbered = {f"{name}.user2id": users, f"{name}.item2id": [row["raw_id"] for row in items]}
    for ids in numbered.values():
        _refuse([each for each in ids if any(mark in each for mark in "\t\r\n")])
    return {
        f"{name}.inter.json": json.dumps({str(user): row for user, row in enumerate(sequences)}),
        f"{name}.item.json": json.dumps(text, ensure_ascii=False),
        **{file: "".join(f"{raw}\t{number}\n" for number, raw in enumerate(ids)) for file, ids in numbered.items()},
    }


def _csv(data: Artifact, name: str) -> Files:
    """`NAME.csv` and `NAME.items.csv` with a header; a published split is a column."""
    rows = _interactions(data).rename({"user": "user_id", "item": "item_id"})
    if data.json("card.json")["split"]["rule"] == "given":
        rows = rows.with_columns(split=_labels(data))
    items = pl.DataFrame(pl.from_arrow(data.table("items")))
    columns = {"item_id": items["raw_id"]}
    columns |= {field: pl.Series([_kept(text) for text in items[field]], dtype=pl.String) for field in TEXT}
    columns["categories"] = pl.Series(
        [json.dumps(list(value), ensure_ascii=False) for value in items["categories"]], dtype=pl.String
    )
    return {f"{name}.csv": rows.write_csv(), f"{name}.items.csv": pl.DataFrame(columns).write_csv()}


def _interactions(data: Artifact) -> pl.DataFrame:
    """user and item (original ids), rating and timestamp where there are any, in the total order."""
    table = pl.DataFrame(pl.from_arrow(data.table("interactions")))
    users, items = (pl.Series(data.table(name)["raw_id"].to_pylist(), dtype=pl.String) for name in ("users", "items"))
    made = table.with_columns(user=users.gather(table["user"]), item=items.gather(table["item"]))
    made = made.drop("rating") if table["rating"].null_count() == len(table) else made
    return made.drop("timestamp") if data.json("card.json")["ticks_per_second"] is None else made


def _labels(data: Artifact) -> pl.Series:
    """The split of every interaction; nothing for history."""
    sequences, labels = _inputs.sequences(data), [""] * len(data.table("interactions"))
    for split in ("train", "valid", "test"):
        _, user, end = _inputs.events(data, split)
        for place in (sequences.offsets[user] + end).tolist():
            labels[place] = split
    return pl.Series(labels, dtype=pl.String)


def _kept(text: str) -> str:
    """Text that reads back as it is: escaped where making it plain once more would change it."""
    return text if _text.plain(text) == text else html.escape(text)


def _list(names: Sequence[str]) -> str:
    """Names with commas between, or a list in JSON where a name has a comma itself."""
    return json.dumps(list(names), ensure_ascii=False) if any("," in name for name in names) else ", ".join(names)


def _refuse(ids: Any) -> None:
    if len(ids):
        raise UserError(f"the id {ids[0]!r} holds a tab or a line end, which this format cannot hold. Use --to csv")
