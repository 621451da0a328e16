"""Item text (or a file) -> one token path per item, with figures on collisions and the use of codes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from ilrec_cli import artifacts, devices, folders, plugins
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.ids import _settle
from ilrec_cli.ids._assignment import Assignment, quality
from ilrec_cli.ids._quantise import Job
from ilrec_cli.settings import BuildIds
from ilrec_cli.stages import _ids_folder, _inputs


@dataclass(frozen=True)
class Task:
    """A build as asked for, with every open setting decided."""

    settings: BuildIds
    scheme: ModuleType
    options: Any
    data: Artifact
    recorded: dict[str, Any]
    target: Path


@dataclass(frozen=True)
class Made:
    """Paths, and what later items need: the vectors, the codebooks, and the weights between them."""

    assignment: Assignment
    vectors: np.ndarray | None = None
    tensors: dict[str, dict[str, np.ndarray]] | None = None  # file -> tensors
    log: str = ""


def run(config: BuildIds) -> dict[str, Any]:
    """Write WORK/DATASET/ids/NAME and print the figures."""
    console = Console.of(config)
    task = _task(config)
    if _is_finished(task):
        console.say(f"Already there: {task.target}\nNext: ilrec train-cf {_inputs.flags(config)}")
    elif task.scheme.QUANTISES:
        identity = {**task.recorded, "version of --data": task.data.digest}
        with _ids_folder.opened(task.target, config, identity) as folder:
            _write(task, _quantised(task, folder, console), console)
    else:
        found = plugins.part(task.scheme, "assign").assign(task.data.table("items"), task.options)
        _write(task, Made(_settle.given(found, task.settings.collisions, _key(task.data))), console)
    ids = artifacts.read(task.target, "ids")
    return {"path": str(task.target), "digest": ids.digest, **ids.json("quality.json")}


def _task(config: BuildIds) -> Task:
    data = _inputs.read_data(config)
    config = _with_scheme(config)
    scheme = plugins.load("ids", config.scheme)
    if config.collisions == "auto":
        config = replace(config, collisions=_settle.default_rule(scheme.QUANTISES))
    chosen = {**plugins.preset(scheme, config.preset), **config.options}
    options = configs.build(scheme.Config, chosen, f"ID scheme '{config.scheme}'")
    recorded = _recorded(config, options)
    name = config.name or f"{config.scheme}-{configs.fingerprint(recorded)}-s{config.seed}"
    target = _inputs.dataset_dir(config) / "ids" / folders.plain_name(name, "--name")
    return Task(config, scheme, options, data, recorded, target)


def _is_finished(task: Task) -> bool:
    """True if these very identifiers are there; refuses to replace others unasked, and an import by its resolution."""
    if not artifacts.exists(task.target):
        return False
    found = _inputs.read_config(task.target)
    if found != task.recorded:
        import_kept = found["scheme"] == "lcrec_index" and found["collisions"] == "keep"
        if import_kept and found["scheme"] == task.settings.scheme:
            raise UserError(f"{task.target} holds the import itself. Choose another --name for one that is changed")
        if not task.settings.overwrite:
            raise UserError(
                f"{task.target} holds identifiers with other settings. Choose another --name, or --overwrite it"
            )
    if task.settings.overwrite or not task.scheme.QUANTISES:  # a file may have changed, and reading it takes no time
        return False
    there = artifacts.read(task.target, "ids")
    return there.config == task.recorded and there.manifest["parents"]["data"] == task.data.digest


def _quantised(task: Task, folder: Path, console: Console) -> Made:
    """Vectors, codebooks and settled paths."""
    settings, data = task.settings, task.data
    job = Job(console, devices.resolve(settings.device), folder, _ids_folder.logger(folder))
    vectors_ID = _vectors(settings, data.table("items"), data.path, console)
    rng = np.random.default_rng(settings.seed)
    found = plugins.part(task.scheme, "quantise").fit(vectors_ID, task.options, rng, job)
    assignment = _settle.quantised(found, settings.collisions, _key(data))
    codebooks = {f"level_{level}": codebook_KD for level, codebook_KD in enumerate(found.codebook_LKD)}
    log = folder / _ids_folder.LOG
    return Made(
        assignment,
        vectors_ID,
        {"codebooks": codebooks, "weights": found.weights},
        log.read_text() if log.exists() else "",
    )


def _key(data: Artifact) -> np.ndarray:
    """What decides ties: items are numbered by sorted original id."""
    return np.arange(len(data.table("items")))


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


def _write(task: Task, made: Made, console: Console) -> None:
    """The artifact, whole or not at all; then its figures for people."""
    from safetensors.numpy import save_file

    figures = {**quality(made.assignment.tokens), **made.assignment.notes}
    parents = {"data": task.data}
    with artifacts.create(
        task.target, kind="ids", config=task.recorded, seed=task.settings.seed, parents=parents
    ) as folder:
        items = task.data.table("items")
        rows = {
            "item": items["item"],
            "raw_id": items["raw_id"],
            "codes": made.assignment.codes,
            "tokens": made.assignment.tokens,
        }
        artifacts.write_table(folder, "item_ids", rows)
        files = {"embeddings": {} if made.vectors is None else {"embeddings": made.vectors}, **(made.tensors or {})}
        for name, tensors in files.items():
            if tensors:
                contiguous = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
                save_file(contiguous, str(folder / f"{name}.safetensors"))
        artifacts.write_json(folder / "quality.json", figures)
        if made.log:
            artifacts.write_text(folder / _ids_folder.LOG, made.log)
    _print(task, figures, console)


def _print(task: Task, figures: dict[str, Any], console: Console) -> None:
    settings = task.settings
    flat = {**figures, **figures["collisions"]}
    shown = {name.replace("_", " "): " / ".join(map(str, value)) if isinstance(value, list) else value
             for name, value in flat.items() if not isinstance(value, dict)}  # fmt: skip
    console.table([settings.scheme, ""], list(shown.items()))
    unused = figures.get("entries_not_used", 0)
    if unused:
        console.warn(f"{unused:,} entries of {figures['index']} name no item of this dataset: is it the right file?")
    if figures["colliding_items"]:
        count, paths = figures["colliding_items"], figures["distinct_paths"]
        console.say(f"{count:,} items collide: {figures['items']:,} items have {paths:,} distinct paths")
    console.say(f"\nIdentifiers: {task.target}\nNext: ilrec train-cf {_inputs.flags(settings)}")
