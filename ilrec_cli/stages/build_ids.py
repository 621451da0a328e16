"""Item text (or a file) -> one token path per item, with figures on collisions and the use of codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ilrec_cli import artifacts, folders, plugins
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.ids._assignment import Assignment, quality
from ilrec_cli.settings import BuildIds
from ilrec_cli.stages import _inputs, _vectors
from ilrec_cli.stages._text_vectors import Encoded


def run(config: BuildIds) -> dict[str, Any]:
    """Write WORK/DATASET/ids/NAME and print the figures."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    config = _with_scheme(config)
    scheme = plugins.load("ids", config.scheme)
    options = configs.build(scheme.Config, config.options, f"ID scheme '{config.scheme}'")
    items = data.table("items")
    rng = np.random.default_rng(config.seed)
    source = _vectors.source(config, data) if scheme.NEEDS_VECTORS else None
    recorded = _recorded(config, options, source)
    name = config.name or f"{config.scheme}-{configs.fingerprint(recorded)}-s{config.seed}"
    target = _inputs.dataset_dir(config) / "ids" / folders.plain_name(name, "--name")
    if artifacts.exists(target) and not config.overwrite and _inputs.read_config(target) != recorded:
        raise UserError(f"{target} holds identifiers with other settings. Choose another --name, or --overwrite it")
    encoded = _vectors.encode(source, items, target.parent, console) if source else None
    vectors = encoded.vector_ID if encoded else None
    assignment: Assignment = plugins.part(scheme, "assign").assign(items, vectors, options, rng)
    figures = {**quality(assignment.tokens), **assignment.notes}
    parents = {"data": data} | (source.parents if source else {})
    with artifacts.create(target, kind="ids", config=recorded, seed=config.seed, parents=parents) as folder:
        _write(folder, assignment, encoded, figures)
    if encoded:
        encoded.forget()
    _print(console, config, figures, target)
    return {"path": str(target), "digest": artifacts.read(target, "ids").digest, **figures}


def _with_scheme(config: BuildIds) -> BuildIds:
    """The scheme decided, and --index handed to the scheme that imports it."""
    if config.index is None:
        return replace(config, scheme="rqkmeans") if config.scheme == "auto" else config
    if config.scheme not in ("auto", "lcrec_index"):
        raise UserError(f"--index goes with the scheme lcrec_index, not with '{config.scheme}'")
    return replace(config, scheme="lcrec_index", options={**config.options, "index": config.index})


def _recorded(config: BuildIds, options: Any, source: _vectors.Source | None) -> dict[str, Any]:
    """What the identifiers depend on: settings of vectors only where they are used, files by name."""
    recorded = _vectors.without_vectors(configs.as_dict(config, control=False)) | {"options": configs.as_dict(options)}
    if config.scheme == "lcrec_index":
        recorded["options"]["index"] = Path(recorded["options"]["index"] or "").name
    return recorded | (source.recorded if source else {})


def _write(folder: Path, assignment: Assignment, encoded: Encoded | None, figures: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    rows = {"item": np.arange(len(assignment.codes)), "codes": assignment.codes, "tokens": assignment.tokens}
    artifacts.write_table(folder, "item_ids", rows)
    if encoded:
        encoded.write(folder)
    if assignment.codebooks:
        save_file(assignment.codebooks, str(folder / "codebooks.safetensors"))
    artifacts.write_json(folder / "quality.json", figures)


def _print(console: Console, config: BuildIds, figures: dict[str, Any], target: Path) -> None:
    shown = {name.replace("_", " "): " / ".join(map(str, value)) if isinstance(value, list) else value
             for name, value in figures.items()}  # fmt: skip
    console.table([config.scheme, ""], list(shown.items()))
    unused = figures.get("entries_not_used", 0)
    if unused:
        console.warn(f"{unused:,} entries of {figures['index']} name no item of this dataset: is it the right file?")
    if figures["colliding_items"]:
        count, paths = figures["colliding_items"], figures["distinct_paths"]
        console.say(f"{count:,} items collide: {figures['items']:,} items have {paths:,} distinct paths")
    console.say(f"\nIdentifiers: {target}\nNext: ilrec train-cf {_inputs.flags(config)}")
