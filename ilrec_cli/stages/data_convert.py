"""A preprocessed dataset in another tool's format: RecBole's atomic files, LC-Rec's JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import ConvertData
from ilrec_cli.stages import _inputs

Files = dict[str, str]


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
    console.say(f"Written: {', '.join(files)}\nIn: {folder}")
    return {"path": str(folder), "files": list(files)}


def _recbole(data: Artifact, name: str) -> Files:
    """`.inter` and `.item`; ids and texts must not hold tabs or line ends (texts lose them)."""
    rows, ratings = _rows(data), _has_ratings(data)
    head = ["user_id:token", "item_id:token", *(["rating:float"] if ratings else []), "timestamp:float"]
    lines = [[user, item, *([_number(rating)] if ratings else []), str(time)] for user, item, rating, time in rows]
    items = data.table("items").to_pylist()
    text = [[row["raw_id"], *(_one_line(row[field]) for field in ("title", "description", "brand")), ", ".join(map(_one_line, row["categories"]))]
            for row in items]  # fmt: skip
    text_head = ["item_id:token", "title:token_seq", "description:token_seq", "brand:token_seq", "categories:token_seq"]
    return {f"{name}.inter": _tabs([head, *lines]), f"{name}.item": _tabs([text_head, *text])}


def _lcrec(data: Artifact, name: str) -> Files:
    """`.inter.json`, `.item.json`, and the tables of original ids."""
    sequences = data.table("sequences")["items"].to_pylist()
    items, users = data.table("items").to_pylist(), data.table("users")["raw_id"].to_pylist()
    text = {str(row["item"]): {"title": row["title"], "description": row["description"], "brand": row["brand"],
                               "categories": ",".join(row["categories"])} for row in items}  # fmt: skip
    return {
        f"{name}.inter.json": json.dumps({str(user): row for user, row in enumerate(sequences)}),
        f"{name}.item.json": json.dumps(text, ensure_ascii=False),
        f"{name}.user2id": _tabs([[raw, str(user)] for user, raw in enumerate(users)]),
        f"{name}.item2id": _tabs([[row["raw_id"], str(row["item"])] for row in items]),
    }


def _csv(data: Artifact, name: str) -> Files:
    """`interactions.csv` and `items.csv`, with a header."""
    interactions: list[list[Any]] = [
        ["user_id", "item_id", "rating", "timestamp"],
        *([u, i, _number(r), t] for u, i, r, t in _rows(data)),
    ]
    items: list[list[Any]] = [["item_id", "title", "description", "brand", "categories"]]
    items += [[row["raw_id"], row["title"], row["description"], row["brand"], json.dumps(row["categories"], ensure_ascii=False)]
              for row in data.table("items").to_pylist()]  # fmt: skip
    return {f"{name}.csv": _comma(interactions), f"{name}.items.csv": _comma(items)}


def _rows(data: Artifact) -> list[tuple[str, str, float | None, int]]:
    """(user, item, rating, time) with original ids, in the total order."""
    table = data.table("interactions")
    users, items = (data.table(name)["raw_id"].to_pylist() for name in ("users", "items"))
    return [
        (users[user], items[item], rating, time)
        for user, item, rating, time in zip(*(table[name].to_pylist() for name in ("user", "item", "rating", "timestamp")), strict=True)
    ]  # fmt: skip


def _has_ratings(data: Artifact) -> bool:
    column = data.table("interactions")["rating"]
    return bool(column.null_count < len(column))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _tabs(rows: list[list[str]]) -> str:
    bad = next((cell for row in rows for cell in row if any(mark in cell for mark in "\t\r\n")), None)
    if bad is not None:
        raise UserError(f"the id {bad!r} holds a tab or a line end, which this format cannot hold. Use --to csv")
    return "".join("\t".join(row) + "\n" for row in rows)


def _comma(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
