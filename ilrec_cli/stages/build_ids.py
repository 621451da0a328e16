"""Item text (or a file) -> one token path per item, with figures on collisions and the use of codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ilrec_cli import artifacts, folders, plugins
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.ids._assignment import Assignment, quality
from ilrec_cli.settings import BuildIds
from ilrec_cli.stages import _inputs


def run(config: BuildIds) -> dict[str, Any]:
    """Write WORK/DATASET/ids/NAME and print the figures."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    config = _with_scheme(config)
    scheme = plugins.load("ids", config.scheme)
    options = configs.build(scheme.Config, config.options, f"ID scheme '{config.scheme}'")
    items = data.table("items")
    rng = np.random.default_rng(config.seed)
    vectors = _vectors(config, items, data.path, console) if scheme.NEEDS_VECTORS else None
    assignment: Assignment = plugins.part(scheme, "assign").assign(items, vectors, options, rng)
    figures = {**quality(assignment.tokens), **assignment.notes}
    recorded = _recorded(config, options)
    name = config.name or f"{config.scheme}-{configs.fingerprint(recorded)}-s{config.seed}"
    target = _inputs.dataset_dir(config) / "ids" / folders.plain_name(name, "--name")
    if artifacts.exists(target) and not config.overwrite and _inputs.read_config(target) != recorded:
        raise UserError(f"{target} holds identifiers with other settings. Choose another --name, or --overwrite it")
    with artifacts.create(target, kind="ids", config=recorded, seed=config.seed, parents={"data": data}) as folder:
        _write(folder, assignment, vectors, figures)
    _print(console, config, figures, target)
    return {"path": str(target), "digest": artifacts.read(target, "ids").digest, **figures}


def _with_scheme(config: BuildIds) -> BuildIds:
    """The scheme decided, and --index handed to the scheme that imports it."""
    if config.index is None:
        return replace(config, scheme="rqkmeans") if config.scheme == "auto" else config
    if config.scheme not in ("auto", "lcrec_index"):
        raise UserError(f"--index goes with the scheme lcrec_index, not with '{config.scheme}'")
    return replace(config, scheme="lcrec_index", options={**config.options, "index": config.index})


def _recorded(config: BuildIds, options: Any) -> dict[str, Any]:
    """What the identifiers depend on: encoder settings only where vectors are used, files by name."""
    recorded = configs.as_dict(config, control=False) | {"options": configs.as_dict(options)}
    if config.scheme == "lcrec_index":
        recorded["options"]["index"] = Path(recorded["options"]["index"] or "").name
        for key in ("encoder", "text", "vector_size", "dtype"):
            del recorded[key]
    elif config.encoder != "tfidf":
        del recorded["vector_size"]
    return recorded


def _vectors(config: BuildIds, items: pa.Table, data: Path, console: Console) -> np.ndarray:
    """One vector per item from its text."""
    texts = item_texts(items, config.text)
    empty = sum(not text for text in texts)
    if empty == len(texts):
        raise UserError(
            f"{data}: none of the {empty:,} items has text in {', '.join(config.text)}. Add the metadata file to the raw "
            "files and preprocess again, or import identifiers: --index FILE.index.json"
        )
    if empty:
        console.warn(
            f"{empty:,} of {len(texts):,} items have no text; they are told apart only by their suffix or last code"
        )
    if config.encoder == "tfidf":
        from ilrec_cli.ids import _tfidf

        return _tfidf.encode(texts, config.vector_size, config.seed)
    from ilrec_cli.lm import embed

    return embed.mean_pooled(
        config.encoder, texts, batch_size=config.batch_size, device=config.device, dtype=config.dtype, console=console
    )


def item_texts(items: pa.Table, names: tuple[str, ...]) -> list[str]:
    """The chosen fields of each item, joined by '. '; empty fields are left out."""
    allowed = ("title", "description", "brand", "categories")
    for name in names:
        if name not in allowed:
            raise UserError(f"--text names '{name}', expected some of {', '.join(allowed)}")
    columns = []
    for name in names:
        values = items[name].to_pylist()
        columns.append([", ".join(value) if isinstance(value, list) else value for value in values])
    return [". ".join(part for part in parts if part) for parts in zip(*columns, strict=True)]


def _write(folder: Path, assignment: Assignment, vectors: np.ndarray | None, figures: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    rows = {"item": np.arange(len(assignment.codes)), "codes": assignment.codes, "tokens": assignment.tokens}
    artifacts.write_table(folder, "item_ids", rows)
    if vectors is not None:
        save_file({"embeddings": np.ascontiguousarray(vectors)}, str(folder / "embeddings.safetensors"))
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
