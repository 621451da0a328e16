"""Identifiers -> an LC-Rec `.index.json`: item -> its tokens."""

from __future__ import annotations

import json
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import ExportIds
from ilrec_cli.stages import _inputs, _models


def run(config: ExportIds) -> dict[str, Any]:
    """Write the file; `ilrec build-ids --index` reads it back to the same paths."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    ids = _inputs.read_ids(config, data, config.ids)
    if _models.is_text(ids):
        raise UserError(f"'{ids.name}' are titles, not tokens: an .index.json cannot hold them")
    target = config.output or _inputs.dataset_dir(config) / f"{config.dataset}.index.json"
    with _inputs.output_file(target, overwrite=config.overwrite):
        keys = map(str, data.table("items")[config.keys].to_pylist())
        index = dict(zip(keys, ids.table("item_ids")["tokens"].to_pylist(), strict=True))
        artifacts.write_text(target, json.dumps(index, ensure_ascii=False) + "\n")
    console.say(f"{len(index):,} items, keys: {config.keys}\nWritten: {target}")
    return {"path": str(target), "items": len(index)}
