"""Files of histories in, files of recommendations out: Parquet or JSON lines, a chunk at a time, whole or absent.

Lines of JSON end with a line feed, and with nothing else that text can hold: titles may contain any separator.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ilrec_cli.errors import UserError, abridged
from ilrec_cli.json_log import json_line
from ilrec_cli.stages._recommender import Recommendation

CHUNK = 2048  # rows in memory at a time
KINDS = (".parquet", ".jsonl")
SURROGATES = re.compile("[\ud800-\udfff]")  # JSON can hold half a character, a file of text cannot
COLUMNS = pa.schema({
    "user": pa.string(), "items": pa.list_(pa.string()), "titles": pa.list_(pa.string()), "scores": pa.list_(pa.float32()),
})  # fmt: skip


class Row(NamedTuple):
    """A user, a history, or both (original ids); `where` names the row in messages."""

    where: str
    user: str | None
    history: list[str] | None


Placed = tuple[str, dict[str, Any]]  # a row, and what it is called: "row 3", "line 7"


def kind_of(path: Path, flag: str) -> str:
    """.parquet or .jsonl; `UserError` for others."""
    if path.suffix not in KINDS:
        raise UserError(f"{flag} {path}: expected a file that ends in {' or '.join(KINDS)}")
    return path.suffix


def count(path: Path) -> int | None:
    """Rows of a Parquet file, for the progress bar; unknown for JSON lines."""
    if path.suffix != ".parquet":
        return None
    with _readable(path):
        return int(pq.ParquetFile(path).metadata.num_rows)


def read(path: Path) -> Iterator[list[Row]]:
    """Chunks of rows."""
    rows = (_parquet if kind_of(path, "--input") == ".parquet" else _json_lines)(path)
    chunk: list[Row] = []
    for place, row in rows:
        chunk.append(_row(row, f"{path}: {place}: "))
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


Write = Callable[[Sequence[Row], Sequence[list[Recommendation]]], None]


@contextmanager
def writer(path: Path) -> Iterator[Write]:
    """A function that adds rows; the file is in its place when the block ends well, and absent otherwise."""
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with (_to_parquet if kind_of(path, "--output") == ".parquet" else _to_json_lines)(aside) as write:
            yield write
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _to_parquet(path: Path) -> Iterator[Write]:
    with pq.ParquetWriter(path, COLUMNS, compression="zstd") as file:

        def write(rows: Sequence[Row], lists: Sequence[list[Recommendation]]) -> None:
            made = [_record(row, listed) for row, listed in zip(rows, lists, strict=True)]
            file.write_table(pa.Table.from_pylist(made, schema=COLUMNS))

        yield write


@contextmanager
def _to_json_lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:

        def write(rows: Sequence[Row], lists: Sequence[list[Recommendation]]) -> None:
            for row, listed in zip(rows, lists, strict=True):
                file.write(json_line(_record(row, listed)) + "\n")

        yield write


def _record(row: Row, listed: list[Recommendation]) -> dict[str, Any]:
    columns = zip(*listed, strict=True) if listed else ((), (), ())
    items, titles, scores = map(list, columns)
    return {"user": row.user, "items": items, "titles": titles, "scores": scores}


def _parquet(path: Path) -> Iterator[Placed]:
    with _readable(path):
        file = pq.ParquetFile(path)
        names = [name for name in ("user", "history") if name in file.schema_arrow.names]
        if not names:
            found = ", ".join(file.schema_arrow.names)
            raise UserError(f"--input {path}: expected a column history or user, got {found}")
        batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=CHUNK, columns=names))
        for number, row in enumerate(chain.from_iterable(batches), start=1):
            yield f"row {number}", row


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into a `UserError`; what the system refuses stays as it is."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):
            raise
        raise UserError(f"--input {path}: no readable Parquet file ({' '.join(str(error).split())[:120]})") from error


def _json_lines(path: Path) -> Iterator[Placed]:
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text.rstrip())
            except (ValueError, RecursionError) as error:
                # A column of this line: what json calls line 1 is no line of the file.
                why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
                raise UserError(
                    f"{path}: line {number}: no JSON ({abridged(why)}); each line holds one object"
                ) from error
            if not isinstance(row, dict):
                raise UserError(
                    f"{path}: line {number}: expected an object with history or user, got {type(row).__name__}"
                )
            yield f"line {number}", row


def _row(row: dict[str, Any], where: str) -> Row:
    user, history = row.get("user"), row.get("history")
    if history is not None:
        if not isinstance(history, list):
            raise UserError(f"{where}history is {type(history).__name__}, expected a list of item ids")
        history = [_id(each, f"{where}history: ") for each in history]
    elif user is None:
        raise UserError(f"{where}neither history nor user")
    return Row(where, None if user is None else _id(user, f"{where}user: "), history)


def _id(value: Any, where: str) -> str:
    """Ids are text; files that hold whole numbers mean their digits."""
    if isinstance(value, str) and not SURROGATES.search(value):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{where}{abridged(repr(value))} is no id")
