"""Sequences -> a collaborative model, with its metrics on validation and test, and popularity's beside them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ilrec_cli import artifacts, devices, folders, plugins
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.cf import _fit
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.histories import training_windows
from ilrec_cli.settings import TrainCf
from ilrec_cli.stages import _evaluation, _inputs, _models

SHOWN = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")


def run(config: TrainCf) -> dict[str, Any]:
    """Train, write WORK/DATASET/cf/NAME/train and eval/, print metrics."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    for split in ("valid", "test"):
        if not len(_inputs.events(data, split)[0]):
            raise UserError(f"{data.path}: there is no {split} target (users need at least 3 interactions for one)")
    model = _build(config, "popularity", {}, data, console)
    results = {"popularity": _evaluate(model, data, config)}
    if config.model != "popularity":
        model = _build(config, config.model, config.options, data, console)
        results[config.model] = _evaluate(model, data, config)
    rows = [[name, split, *(scores[split][metric] for metric in SHOWN)]
            for name, scores in results.items() for split in ("valid", "test")]  # fmt: skip
    console.table(["model", "split", *SHOWN], rows)
    console.say(f"\nModel: {model.path}\nNext: ilrec train {_inputs.flags(config)} --method ilrec")
    return {"path": str(model.path), "name": model.name, **results[config.model]}


def _build(config: TrainCf, name: str, options: dict[str, Any], data: Artifact, console: Console) -> Artifact:
    """The finished artifact of a model: the one that is there, or a new one."""
    plugin = plugins.load("cf", name)
    resolved = configs.as_dict(configs.build(plugin.Config, options, f"collaborative model '{name}'"))
    recorded = _recorded(config, plugin, name, resolved)
    chosen = config.name if name == config.model else None
    # Counting has no settings and no seed: its folder needs no hash.
    folder_name = chosen or (f"{name}-{configs.fingerprint(recorded)}-s{config.seed}" if plugin.TRAINED else name)
    target = _inputs.dataset_dir(config) / "cf" / folders.plain_name(folder_name, "--name") / "train"
    if artifacts.exists(target) and not config.overwrite:
        found = artifacts.read(target, "cf")
        if found.config == recorded and found.manifest["parents"]["data"] == data.digest:
            console.detail(f"Already trained: {target}")
            return found
        if chosen and found.config != recorded:
            raise UserError(f"{target} holds a model with other settings. Choose another --name, or --overwrite it")
    device = devices.resolve(config.device)
    devices.keep_freed_memory(device)
    about = _models.facts(data)
    torch.manual_seed(config.seed)
    model, _ = _models.build_cf(name, resolved, about)
    model.to(device)
    log: list[dict[str, Any]] = []
    if plugin.TRAINED:
        _fit_model(config, model, data, about, device, log, console)
    _write(target, model, recorded, config, data, log)
    return artifacts.read(target, "cf")


def _recorded(config: TrainCf, plugin: ModuleType, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the model depends on; counting takes no settings of training."""
    settings = configs.as_dict(config, control=False) if plugin.TRAINED else {"dataset": config.dataset}
    return {**settings, "model": name, "options": options}


def _fit_model(
    config: TrainCf,
    model: Any,
    data: Artifact,
    about: Any,
    device: torch.device,
    log: list[dict[str, Any]],
    console: Console,
) -> None:
    sequences = _inputs.sequences(data)
    start, stop = _inputs.training_part(data)
    _, user, end = _inputs.events(data, "valid")
    if config.limit_users is not None:
        chosen = np.random.default_rng(config.seed).permutation(len(sequences))[: config.limit_users]
        stop = np.where(np.isin(np.arange(len(sequences)), chosen), stop, 0)
    windows = training_windows(sequences, stop, about.max_history, start)
    if not len(windows):
        raise UserError(f"{data.path}: there is no training target (users need at least 4 interactions for one)")
    count = sum(parameter.numel() for parameter in model.parameters())
    console.say(f"{config.model}: {count:,} parameters, {int((windows.stop - windows.first).sum()):,} targets")
    started = time.perf_counter()

    def note(row: dict[str, Any]) -> None:
        row["seconds"] = round(time.perf_counter() - started, 2)
        log.append(row)
        best = "  best" if row["best"] else ""
        console.say(
            f"epoch {row['epoch']:>3}  loss {row['loss']:.4f}  validation NDCG@10 {row['valid_ndcg@10']:.4f}{best}"
        )

    best = _fit.fit(model, sequences, windows, _fit.Events(user, end), config, facts=about, device=device, log=note)
    console.say(f"Best epoch {best}; {time.perf_counter() - started:.0f} s\n")


def _write(
    target: Path, model: Any, recorded: dict[str, Any], config: TrainCf, data: Artifact, log: list[dict[str, Any]]
) -> None:
    from safetensors.torch import save_file

    with artifacts.create(target, kind="cf", config=recorded, seed=config.seed, parents={"data": data}) as folder:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, str(folder / "model.safetensors"))
        (folder / "config.yaml").write_text(configs.to_yaml(recorded), encoding="utf-8")
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")


def _evaluate(cf: Artifact, data: Artifact, config: TrainCf) -> dict[str, dict[str, float]]:
    """Full-ranking metrics of every validation and test event, kept as evaluations."""
    device = devices.resolve(config.device)
    model, sequences = _models.open_cf(cf, data, device), _inputs.sequences(data)
    scores = {}
    for split in ("valid", "test"):
        events = _inputs.events(data, split)
        rankings = _fit.rank_events(model, sequences, _fit.Events(*events[1:]), _models.facts(data), device)
        rules = _evaluation.protocol(split, None, config.seed)
        scores[split] = _evaluation.write(cf, data, rules, rankings, events, {"model": cf.config["model"]})
    return scores
