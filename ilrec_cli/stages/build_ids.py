"""Items -> one token path each, from vectors of their text, their titles or a file; with figures that judge them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ilrec_cli import artifacts, devices, folders, plugins, presets
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.ids import _settle
from ilrec_cli.ids._quantise import Job, Quantised
from ilrec_cli.interrupt import Stopped
from ilrec_cli.settings import BuildIds
from ilrec_cli.stages import _ids_artifact, _ids_folder, _inputs, _vectors
from ilrec_cli.stages._ids_artifact import Made


@dataclass(frozen=True)
class Task:
    """A build as asked for, with every open setting decided; `source` is where vectors come from, if they do."""

    settings: BuildIds
    scheme: ModuleType
    options: Any
    data: Artifact
    source: _vectors.Source | None
    recorded: dict[str, Any]
    target: Path


def run(config: BuildIds) -> dict[str, Any]:
    """Write WORK/DATASET/ids/NAME and print the figures."""
    console = Console.of(config)
    task = _task(config)
    if _is_finished(task):
        console.say(f"Already there: {task.target}\nNext: ilrec train-cf {_inputs.flags(config)}")
    elif task.source is not None:
        try:
            _train(task, task.source, console)
        except Stopped as stopped:
            console.say(f"\n{stopped}")
            raise
    else:
        if config.resume:
            raise UserError(f"--resume: the scheme {task.settings.scheme} has nothing to go on with. Start without it")
        given = plugins.part(task.scheme, "assign").assign(task.data.table("items"), task.options)
        _write(task, Made(_settle.given(given, task.settings.collisions, _inputs.item_order(task.data))), console)
    ids = artifacts.read(task.target, "ids")
    return {"path": str(task.target), "name": ids.name, "digest": ids.digest, **ids.json("quality.json")}


def _task(config: BuildIds) -> Task:
    data = _inputs.read_data(config)
    config = _with_scheme(config)
    scheme = plugins.load("ids", config.scheme)
    if config.collisions == "auto":
        config = replace(config, collisions=_settle.default_rule(scheme.QUANTISES))
    chosen = {**presets.chosen(scheme, config.preset), **config.options}
    options = configs.build(scheme.Config, chosen, f"ID scheme '{config.scheme}'")
    source = _vectors.source(config, data) if scheme.QUANTISES else None
    recorded = _recorded(config, options, source)
    name = config.name or f"{config.scheme}-{configs.fingerprint(recorded)}-s{config.seed}"
    target = _inputs.dataset_dir(config) / "ids" / folders.plain_name(name, "--name")
    return Task(config, scheme, options, data, source, recorded, target)


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


def _is_finished(task: Task) -> bool:
    """True if these very identifiers are there; refuses to replace others unasked, and an import by its resolution."""
    if not artifacts.exists(task.target):
        return False
    found = _inputs.read_config(task.target)
    if found != task.recorded:
        kept = {"scheme": task.settings.scheme, "collisions": "keep"}
        if not task.scheme.QUANTISES and task.settings.collisions != "keep" and kept.items() <= found.items():
            raise UserError(f"{task.target} holds what is to be changed: choose another --name for the result")
        if not task.settings.overwrite:
            raise UserError(
                f"{task.target} holds identifiers with other settings. Choose another --name, or --overwrite it"
            )
    # Where nothing is trained it takes no time, and a file may have changed under its name.
    if task.settings.overwrite or not task.scheme.QUANTISES or found != task.recorded:
        return False
    return artifacts.read(task.target, "ids").manifest["parents"] == _parent_digests(task)


def _parent_digests(task: Task) -> dict[str, str]:
    return {role: parent.digest for role, parent in _parents(task).items()}


def _parents(task: Task) -> dict[str, Artifact]:
    return {"data": task.data} | (task.source.parents if task.source else {})


def _train(task: Task, source: _vectors.Source, console: Console) -> None:
    """Vectors, codebooks, settled paths; kept on the way where the scheme keeps its place."""
    settings = task.settings
    identity = task.recorded | {f"version of --{role}": digest for role, digest in _parent_digests(task).items()}
    with _ids_folder.opened(task.target, settings, identity) as folder:
        encoded = _vectors.encode(source, task.data.table("items"), task.target.parent, console)
        job = Job(console, devices.resolve(settings.device), folder, _ids_folder.logger(folder))
        rng = np.random.default_rng(settings.seed)
        found: Quantised = plugins.part(task.scheme, "quantise").fit(encoded.vector_ID, task.options, rng, job)
        assignment = _settle.quantised(found, settings.collisions, _inputs.item_order(task.data))
        tensors = _ids_artifact.tensors_of(found.codebook_LKD, found.weights)
        _write(task, Made(assignment, encoded, tensors, _ids_folder.read_log(folder)), console)
    encoded.forget()


def _write(task: Task, made: Made, console: Console) -> None:
    figures = _ids_artifact.write(
        task.target, made, task.data, config=task.recorded, seed=task.settings.seed, parents=_parents(task)
    )
    _ids_artifact.show(task.settings.scheme, figures, console)
    unused = figures.get("entries_not_used", 0)
    if unused:
        console.warn(f"{unused:,} entries of {figures['index']} name no item of this dataset: is it the right file?")
    if figures["colliding_items"]:
        count, paths = figures["colliding_items"], figures["distinct_paths"]
        console.say(f"{count:,} items collide: {figures['items']:,} items have {paths:,} distinct paths")
    console.say(f"\nIdentifiers: {task.target}\nNext: ilrec train-cf {_inputs.flags(task.settings)}")
