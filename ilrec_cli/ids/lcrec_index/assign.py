"""Reads the tokens of every item from the file; a missing item or an odd entry is an error."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa

from ilrec_cli.errors import UserError
from ilrec_cli.ids import lcrec_index
from ilrec_cli.ids._assignment import Assignment

CODE = re.compile(r"(\d+)\D*$")


def assign(items: pa.Table, config: lcrec_index.Config) -> Assignment:
    """The paths as the file has them, in the order of `items`."""
    path = config.index
    if path is None:
        raise UserError("the scheme lcrec_index needs the file to import: --index FILE.index.json")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--index {path}: cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise UserError(f"--index {path}: nested too deeply for an object of item -> list of tokens") from error
    except ValueError as error:
        raise UserError(f"--index {path}: not valid JSON ({error})") from error
    if not isinstance(index, dict):
        raise UserError(f"--index {path}: expected an object of item -> list of tokens, got {type(index).__name__}")
    wanted = items["source_id"].to_pylist()
    missing = [key for key in wanted if key not in index]
    if missing:
        raise UserError(
            f"--index {path}: no entry for {len(missing):,} of {len(wanted):,} items, the first is '{missing[0]}'; "
            "the file belongs to another dataset or another version of it"
        )
    tokens = pa.array([_check(path, key, index[key]) for key in wanted], pa.list_(pa.string()))
    codes = pa.array([_code(token) for token in tokens.flatten().to_pylist()], pa.int32())
    notes = {"index": path.name, "entries_not_used": len(index) - len(set(wanted))}
    return Assignment(pa.ListArray.from_arrays(tokens.offsets, codes), tokens, notes)


def _check(path: Any, key: str, entry: Any) -> list[str]:
    if not isinstance(entry, list) or not entry or not all(isinstance(token, str) and token for token in entry):
        raise UserError(f"--index {path}: item '{key}' is {str(entry)[:60]!r}, expected a list of tokens")
    return entry


def _code(token: str) -> int:
    """The number in a token; -1 if it has none, or one that no code has."""
    found = CODE.search(token)
    return int(found.group(1)) if found and len(found.group(1)) < 10 else -1
