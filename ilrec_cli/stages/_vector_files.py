"""Vectors that somebody else made: .npy and .safetensors files, matched to the items of a dataset.

Shapes: I items, R rows of the file, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ilrec_cli.console import Console
from ilrec_cli.errors import UserError


class Wanted(NamedTuple):
    """Vectors of these items; `rows` is how many a file has that covers the source's whole catalogue."""

    path: Path
    ids: Path | None
    tensor: str | None
    items: pa.Table
    rows: int


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"--vectors {path}: cannot be read ({error.strerror})") from error


def read(wanted: Wanted, console: Console) -> np.ndarray:
    """vector_ID in the order of the items (float32); `UserError` says what is wrong with the file."""
    path = wanted.path
    matrix_RD = _load(path, wanted.tensor)
    if matrix_RD.ndim != 2 or 0 in matrix_RD.shape:
        raise UserError(f"--vectors {path}: shape {matrix_RD.shape}, expected one row of numbers for each item")
    if matrix_RD.dtype.kind not in "fiu":
        raise UserError(f"--vectors {path}: holds {matrix_RD.dtype}, expected numbers")
    row_I = _rows_by_ids(wanted, len(matrix_RD)) if wanted.ids else _rows_by_source_id(wanted, len(matrix_RD))
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        vector_ID = np.asarray(matrix_RD[row_I], dtype=np.float32)
    bad_I = ~np.isfinite(vector_ID).all(1)
    if bad_I.any():
        raise UserError(
            f"--vectors {path}: {int(bad_I.sum()):,} rows hold NaN, or numbers too large for float32; the first is row "
            f"{row_I[bad_I.argmax()]}"
        )
    if len(matrix_RD) > len(row_I):
        console.detail(f"{len(matrix_RD) - len(row_I):,} rows of {path.name} stand for no item of this dataset")
    return vector_ID


def _load(path: Path, tensor: str | None) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False, mmap_mode="r"))
        if path.suffix == ".safetensors":
            return _load_tensor(path, tensor)
    except EOFError as error:
        raise UserError(f"--vectors {path}: the file is empty") from error
    except OSError as error:
        raise UserError(f"--vectors {path}: cannot be read ({error.strerror or error})") from error
    except UserError:
        raise
    except ValueError as error:
        # Of Python objects, and of what is no .npy file at all, NumPy says that it would have to unpickle it.
        objects = "pickle" in str(error) or "Python objects" in str(error)
        reason = "not a .npy file, or one of Python objects, which ilrec does not load" if objects else str(error)
        raise UserError(f"--vectors {path}: no array of numbers ({reason})") from error
    raise UserError(f"--vectors {path}: expected a .npy or .safetensors file")


def _load_tensor(path: Path, name: str | None) -> np.ndarray:
    """Through torch: NumPy has no bfloat16."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            names = sorted(file.keys())
            chosen = name or (names[0] if len(names) == 1 else None)
            if chosen not in names:
                asked = f"no tensor '{name}'" if name else "several tensors"
                raise UserError(f"--vectors {path}: {asked}; choose with --vectors-tensor: {', '.join(names)}")
            return np.asarray(file.get_tensor(chosen).float().numpy())
    except SafetensorError as error:
        raise UserError(f"--vectors {path}: no safetensors file ({error})") from error


def _rows_by_source_id(wanted: Wanted, rows: int) -> np.ndarray:
    """Row = the item's number in its source, as published files have it."""
    names = wanted.items["source_id"].to_pylist()
    if not all(name is not None and name.isascii() and name.isdigit() and str(int(name)) == name for name in names):
        raise UserError(
            f"--vectors {wanted.path}: this dataset's items are not numbered by their source, so rows need names: "
            "--vectors-ids FILE, with the item of each row"
        )
    row_I = np.array([int(name) for name in names])
    # One row more is no slack: it is a padding row in front, and every item would get its neighbour's vector.
    if rows not in (wanted.rows, row_I.max() + 1) or row_I.max() >= rows:
        expected = " or ".join(f"{count:,}" for count in sorted({wanted.rows, int(row_I.max()) + 1}))
        raise UserError(
            f"--vectors {wanted.path}: {rows:,} rows, expected {expected} (items are numbered 0 to {row_I.max():,}). "
            "If its rows stand for other items, name them: --vectors-ids FILE"
        )
    return row_I


def _rows_by_ids(wanted: Wanted, rows: int) -> np.ndarray:
    assert wanted.ids is not None
    names = _read_ids(wanted.ids)
    if len(names) != rows:
        raise UserError(f"--vectors-ids {wanted.ids}: {len(names):,} ids for the {rows:,} rows of {wanted.path}")
    place = {name: row for row, name in enumerate(names)}
    if len(place) < rows:
        twice = next(name for row, name in enumerate(names) if place[name] != row)
        raise UserError(f"--vectors-ids {wanted.ids}: '{twice}' is there twice")
    columns = {column: wanted.items[column].to_pylist() for column in ("source_id", "raw_id")}
    column = max(columns, key=lambda name: sum(item in place for item in columns[name]))
    missing = [item for item in columns[column] if item not in place]
    if missing:
        raise UserError(
            f"--vectors-ids {wanted.ids}: no row for {len(missing):,} of {len(wanted.items):,} items, the first is "
            f"'{missing[0]}' ({column})"
        )
    return np.array([place[item] for item in columns[column]])


def _read_ids(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            return text.splitlines()
        names = json.loads(text)
    except RecursionError as error:
        raise UserError(f"--vectors-ids {path}: nested too deeply for a list of item ids") from error
    except OSError as error:
        raise UserError(f"--vectors-ids {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"--vectors-ids {path}: not UTF-8 text or JSON ({error})") from error
    if not isinstance(names, list):
        raise UserError(f"--vectors-ids {path}: expected a list of item ids, got {type(names).__name__}")
    return [str(name) for name in names]
