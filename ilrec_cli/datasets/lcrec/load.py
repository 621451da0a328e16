"""Reads LC-Rec's JSON files: sequences, item text, original ids."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _files, _log, _raw, lcrec
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.datasets.lcrec import said
from ilrec_cli.errors import UserError


def load(folder: Path, dataset: str, config: lcrec.Config, reading: Reading) -> Raw:
    """Sequences and item text. Raw ids are the original ones where the .user2id and .item2id files are there."""
    inter = config.inter or _sequences_file(folder, dataset)
    stem = _files.stem(inter, ".inter.json")
    sequences = _check_sequences(inter, _files.read_json(inter))
    users, items = (_originals(inter.with_name(f"{stem}.{kind}2id")) for kind in ("user", "item"))
    text_file = next(
        iter(path for path in _files.files(inter.parent, ".item.json") if _files.stem(path, ".item.json") == stem), None
    )
    texts = _files.read_json(text_file) if text_file else {}
    if not isinstance(texts, dict) or not all(isinstance(entry, dict) for entry in texts.values()):
        raise UserError(f"{text_file}: expected an object of items, each an object with title, description, brand")
    numbers = sorted({str(item) for items_ in sequences.values() for item in items_} | set(texts))
    for kind, own, originals in (("user", list(sequences), users), ("item", numbers, items)):
        _check_distinct(inter.with_name(f"{stem}.{kind}2id"), own, originals)
    reading.counts["users without any item"] += sum(not row for row in sequences.values())
    return Raw(
        _log.interned([_interactions(sequences, users, items)], reading.spill),
        _items(numbers, items, texts, reading),
        ticks=None,
        said=said.read(inter.with_name(f"{stem}.user.json"), users, items, reading),
    )


def _check_distinct(path: Path, own: list[str], originals: dict[str, str]) -> None:
    """Refuse a table of some original ids only, where one of them is also another's number."""
    twice = [name for name, count in Counter(originals.get(number, number) for number in own).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: '{twice[0]}' is an original id here and the number of another that has none; name all or none"
        )


def _sequences_file(folder: Path, dataset: str) -> Path:
    paths = lcrec.sequence_files(folder)
    named = [path for path in paths if path.name.lower().startswith(dataset.lower())]
    if len(paths) == 1 or len(named) == 1:
        return (named or paths)[0]
    if not paths:
        raise UserError(f"{folder}: no .inter.json file found; expected {lcrec.EXPECTS}")
    listed = ", ".join(path.name for path in paths)
    raise UserError(f"{folder}: several .inter.json files: {listed}. Choose one: -o inter=FILE")


def _check_sequences(path: Path, data: Any) -> dict[str, list[int]]:
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected an object of user -> list of items, got {type(data).__name__}")
    for user, items in data.items():
        if not isinstance(items, list) or not all(type(item) in (int, str) for item in items):
            raise UserError(f"{path}: user '{user}' is {str(items)[:60]!r}, expected a list of item ids")
    return data


def _originals(path: Path) -> dict[str, str]:
    """number -> original id, from a file of `original<TAB>number` lines; {} if there is none."""
    if not path.is_file():
        return {}
    originals: dict[str, str] = {}
    seen: set[str] = set()
    for number, line in _files.lines(path):
        parts = line.decode("utf-8", errors="replace").rstrip("\r\n").split("\t")
        if len(parts) != 2:
            raise UserError(f"{path}:{number}: expected two columns (original id, number), got {len(parts)}")
        original, own = parts
        if own in originals or original in seen:
            raise UserError(f"{path}:{number}: '{own if own in originals else original}' is there for the second time")
        seen.add(original)
        originals[own] = original
    return originals


def _interactions(sequences: dict[str, list[int]], users: dict[str, str], items: dict[str, str]) -> pl.DataFrame:
    table = pl.DataFrame(
        {"user": list(sequences), "item": [[str(item) for item in row] for row in sequences.values()]},
        schema={"user": pl.String, "item": pl.List(pl.String)},
    )
    table = table.explode("item", empty_as_null=False) if len(table) else table.explode("item")
    return table.select(
        user=pl.col("user").replace(users),
        item=pl.col("item").replace(items),
        timestamp=pl.int_range(pl.len(), dtype=pl.Int64).over("user"),
        rating=pl.lit(None, dtype=pl.Float32),
    )


def _items(
    numbers: list[str], originals: dict[str, str], texts: dict[str, dict[str, Any]], reading: Reading
) -> pl.DataFrame:
    fields = ("title", "description", "brand", "categories")
    columns: dict[str, Any] = {name: [texts.get(number, {}).get(name) for number in numbers] for name in fields}
    table = {"raw_id": [originals.get(number, number) for number in numbers], "source_id": numbers, **columns}
    return _raw.plain_items(table, {name: name for name in table}, reading)
