"""One token per item, its title; how a tokenizer splits it is the language model's business."""

from __future__ import annotations

import pyarrow as pa

from ilrec_cli.errors import UserError
from ilrec_cli.ids import title
from ilrec_cli.ids._assignment import Assignment


def assign(items: pa.Table, config: title.Config) -> Assignment:
    """Titles, without blanks around them; equal ones get one code, numbered by first appearance."""
    names = [(name or "").strip() for name in items["title"].to_pylist()]
    missing = [item for item, name in enumerate(names) if not name]
    stopped = (
        config.full_stop == "auto" and any(names) and all(name.endswith(".") and name != "." for name in names if name)
    )
    if stopped:
        names = [name.removesuffix(".").rstrip() for name in names]
    raw_ids = items["raw_id"].to_pylist()
    if missing and config.missing == "fail":
        raise UserError(
            f"{len(missing):,} of {len(names):,} items have no title, the first is '{raw_ids[missing[0]]}'. Write them as "
            "their original ids with -o missing=raw_id, or use another scheme"
        )
    for item in missing:
        names[item] = raw_ids[item]
    flat = pa.array(names, pa.string())
    offsets = pa.array(range(len(names) + 1), pa.int32())
    codes = pa.ListArray.from_arrays(offsets, flat.dictionary_encode().indices.cast(pa.int32()))
    tokens = pa.ListArray.from_arrays(offsets, flat)
    notes = {"items_without_title": len(missing), **({"full_stops_left_out": True} if stopped else {})}
    return Assignment(codes, tokens, notes, text=True)
