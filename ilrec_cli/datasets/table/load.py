"""Reads plain tables block by block, whatever the format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli.datasets import _csv_lines, _files, _json_lines, _raw, _text, table
from ilrec_cli.datasets._raw import Raw, Reading
from ilrec_cli.errors import UserError, nearest

FLAGS = {"user": "user_col", "item": "item_col", "timestamp": "time_col", "rating": "rating_col"}
ROWS = 1 << 20  # of a Parquet file at a time


def load(folder: Path, dataset: str, config: table.Config, reading: Reading) -> Raw:
    """Interactions by the columns' names or the options; without a time, rows are in order of time."""
    path = config.file or _files.named(table.interaction_files(folder), folder, dataset, "file")
    if path is None:
        raise UserError(f"{folder}: no table with a user and an item column found; expected {table.EXPECTS}")
    names = _columns(path)
    chosen = {role: _choose(path, names, role, getattr(config, flag)) for role, flag in FLAGS.items()}
    wanted = {name: role for role, name in chosen.items() if name}
    parts = (_typed(path, part.select(*wanted).rename(wanted)) for part in _tables(path, wanted, reading))
    interactions = _raw.interned(parts)
    if chosen["timestamp"] is None:
        interactions = interactions.with_columns(timestamp=pl.col("row"))
    text = config.items or _beside(path)
    return Raw(interactions, _items(text, config, chosen["item"] or "", interactions["item"], reading))


def _beside(path: Path) -> Path | None:
    """`log.items.csv` beside `log.csv`, as `ilrec data convert` writes it."""
    stem = next((path.name[: -len(end)] for end in table.SUFFIXES if path.name.endswith(end)), path.name.split(".")[0])
    found = _files.files(path.parent, *(f"{stem}.items{end}".lower() for end in table.SUFFIXES))
    return found[0] if found else None


def _choose(path: Path, names: list[str], role: str, asked: str | None) -> str | None:
    """The column of a role: the one asked for, or the only one with a known name."""
    flag = FLAGS[role].replace("_", "-")
    if asked is not None:
        if asked not in names:
            raise UserError(
                f"{path}: no column '{asked}' (--{flag}); there are {', '.join(names)}.{nearest(asked, names)}"
            )
        return asked
    found = [name for name in names if name.lower() in table.KNOWN[role]]
    if len(found) > 1 or (not found and role in ("user", "item")):
        what = (
            f"several columns may be the {role}: {', '.join(found)}" if found else f"no column is known as the {role}"
        )
        raise UserError(f"{path}: {what}; name it with --{flag}. There are {', '.join(names)}")
    return found[0] if found else None


def _columns(path: Path) -> list[str]:
    if _is_parquet(path):
        return list(_parquet(path).schema_arrow.names)
    if first := _files.first_object(path):
        return list(first)
    if not (line := _files.first_line(path)):
        raise UserError(f"{path}: the file is empty or not readable as text")
    return next(iter(_csv_lines.rows_of(line, _separator(line))))


def _tables(path: Path, wanted: dict[str, str], reading: Reading) -> Iterator[pl.DataFrame]:
    if _is_parquet(path):
        for batch in _parquet(path).iter_batches(batch_size=ROWS, columns=list(wanted)):
            yield pl.DataFrame(pl.from_arrow(batch))
        return
    kinds: dict[str, Any] = {name: pl.Float64 if role == "rating" else pl.String for name, role in wanted.items()}
    required = tuple(name for name, role in wanted.items() if role != "rating")
    if _files.first_object(path):
        yield from _json_lines.tables(path, kinds, required, reading.faults, size=reading.block)
        return
    line = _files.first_line(path)
    columns = {name: kinds.get(name, pl.String) for name in _columns(path)}
    if len(columns) < len(_columns(path)):
        raise UserError(f"{path}: two columns have the same name")
    about = _csv_lines.Format(_separator(line), columns, required, header=True)
    yield from _csv_lines.tables(path, about, reading.faults, size=reading.block)


def _typed(path: Path, part: pl.DataFrame) -> pl.DataFrame:
    """user and item as text, timestamp as whole numbers (dates as seconds), rating as a number or null."""
    if "timestamp" not in part.columns:
        part = part.with_columns(timestamp=pl.lit(0, dtype=pl.Int64))
    if "rating" not in part.columns:
        part = part.with_columns(rating=pl.lit(None, dtype=pl.Float32))
    time = _seconds(part["timestamp"])
    for name, column in (("user", part["user"]), ("item", part["item"]), ("time", time)):
        if column.null_count():
            value = part["timestamp" if name == "time" else name].filter(column.is_null())[0]
            raise UserError(
                f"{path}: a row has {value!r} as its {name}; expected {'a number or a date' if name == 'time' else 'an id'}"
            )
    return part.with_columns(pl.col("user", "item").cast(pl.String), timestamp=time)


def _seconds(time: pl.Series) -> pl.Series:
    if time.dtype.is_temporal():
        return time.cast(pl.Datetime("us")).dt.epoch("s")
    if time.dtype != pl.String:
        return (
            time.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
            if time.dtype.is_float()
            else time.cast(pl.Int64)
        )
    whole = time.cast(pl.Int64, strict=False)
    if not whole.null_count():
        return whole
    number = time.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
    dates = time.str.to_datetime("%+", strict=False, time_zone="UTC").dt.epoch("s")
    plain = time.str.replace("T", " ").str.slice(0, 19)
    local = plain.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False).dt.epoch("s")
    days = time.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.epoch("s")
    return pl.DataFrame(
        [whole.alias("a"), number.alias("b"), dates.alias("c"), local.alias("d"), days.alias("e")]
    ).select(pl.coalesce("a", "b", "c", "d", "e"))["a"]


def _items(path: Path | None, config: table.Config, item: str, wanted: pl.Series, reading: Reading) -> pl.DataFrame:
    if path is None:
        return _raw.without_text(wanted)
    names = _columns(path)
    known = [name for name in (config.item_col, item, *table.KNOWN["item"]) if name in names]
    if not known:
        raise UserError(f"{path}: no item column found; there are {', '.join(names)}")
    fields = {
        "title": config.title_col,
        "description": config.description_col,
        "brand": config.brand_col,
        "categories": config.categories_col,
    }
    there = {name: column for name, column in fields.items() if column in names}
    wanted_columns = {known[0]: "item", **{column: name for name, column in there.items()}}
    parts = [
        part.select(*wanted_columns).rename(wanted_columns) for part in _tables_of_text(path, wanted_columns, reading)
    ]
    empty = pl.DataFrame(schema=dict.fromkeys(wanted_columns.values(), pl.String))
    found = (pl.concat(parts) if parts else empty).unique("item", keep="first", maintain_order=True)
    text = {
        name: [_text.plain(value) for value in found[name]] if name in there else [""] * len(found)
        for name in ("title", "description", "brand")
    }
    categories = [_text.words(value) for value in found["categories"]] if "categories" in there else [[]] * len(found)
    ids = found["item"].cast(pl.String)
    return _raw.without_text(
        wanted, pl.DataFrame({"raw_id": ids, "source_id": ids, **text, "categories": categories}, schema=_raw.ITEMS)
    )


def _tables_of_text(path: Path, columns: dict[str, str], reading: Reading) -> Iterator[pl.DataFrame]:
    """Like interactions, with only the item required."""
    if _is_parquet(path):
        yield from _tables(path, columns, reading)
        return
    item = next(name for name, role in columns.items() if role == "item")
    if _files.first_object(path):
        yield from _json_lines.tables(
            path, dict.fromkeys(columns, pl.String), (item,), reading.faults, size=reading.block
        )
        return
    line = _files.first_line(path)
    about = _csv_lines.Format(_separator(line), dict.fromkeys(_columns(path), pl.String), (item,), header=True)
    yield from _csv_lines.tables(path, about, reading.faults, size=reading.block)


def _separator(line: str) -> str:
    return max(("\t", ",", ";", "|"), key=line.count)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _parquet(path: Path) -> Any:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        return pq.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
