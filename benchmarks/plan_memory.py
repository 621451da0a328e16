"""What `ilrec plan` says against what was allocated: peak bytes of tensors above the loaded model.

    python benchmarks/plan_memory.py WORK

WORK holds a dataset `toy` with identifiers and a collaborative model (it is made if absent). Every update of the first
epoch is run for real; its allocations come from torch's profiler, which knows nothing of the plan.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ilrec_cli import config as configs
from ilrec_cli.batching import epoch_batches
from ilrec_cli.lm.steps import Updater
from ilrec_cli.settings import Plan
from ilrec_cli.stages import _backbones, _job, _models, _plan
from ilrec_cli.stages import _task as tasks

SMALL = {"epochs": 1, "batch_size": 16, "quiet": True}
LORA, CHECKPOINTED, CHUNKED = {"tuning": "lora"}, {"gradient_checkpointing": True}, {"loss_chunk": 16}
LOW, PARTS, ALL = {"dtype": "bfloat16"}, {"micro_batch": 4}, {"targets": "all"}
# name -> (vocabulary, method, settings)
CASES: dict[str, tuple[int, str, dict[str, Any]]] = {
    f"V = {rows:,}, {method}, {', '.join(name for name, _ in how) or 'full'}": (
        rows, method, {key: value for _, each in how for key, value in each.items()},
    )
    for rows, method in ((33_000, "ilrec"), (1_000, "sft"))
    for how in (
        (), (("LoRA", LORA),), (("checkpointing", CHECKPOINTED),), (("chunks", CHUNKED),), (("bfloat16", LOW),),
        (("LoRA", LORA), ("checkpointing", CHECKPOINTED), ("chunks", CHUNKED), ("bfloat16", LOW)),
        (("micro-batches", PARTS),), (("all targets", ALL),),
    )
}  # fmt: skip


def main(work: Path) -> None:
    from _common import ilrec, write

    if not (work / "toy").is_dir():
        common = ["--dataset", "toy", "--work", work, "--quiet"]
        ilrec("preprocess", *common, "--source", "synthetic", "-o", "users=120", "--user-k", 4, "--item-k", 1)
        ilrec("build-ids", *common, "--name", "text", "-o", "codes=16")
        ilrec("train-cf", *common, "--epochs", 1, "-o", "hidden_size=16")
    cells = {}
    for name, case in CASES.items():
        cells[name] = compare(work, *case, width=64, layers=4)
        print(name, cells[name], flush=True)
        write("plan-memory", {"width": 64, "layers": 4, "cells": cells})


def compare(work: Path, rows: int, method: str, settings: dict[str, Any], *, width: int, layers: int) -> dict[str, Any]:
    """Bytes above the loaded model: planned, and allocated by the updates of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder) / "model", rows, width, layers)
        values = {"dataset": "toy", "work": str(work), "method": method, "backbone": str(Path(folder) / "model")}
        task = tasks.decided(configs.build(Plan, {**SMALL, **values, **settings}, "plan"))
        planned, allocated = plan(task), measure(task, Path(folder))
    return {"planned": planned, "allocated": allocated, "ratio": planned / allocated}


def write_config(folder: Path, rows: int, width: int, layers: int) -> None:
    """A small Qwen2 without weights and tokenizer."""
    folder.mkdir()
    config = {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": rows, "hidden_size": width,
        "intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def plan(task: Any) -> int:
    opened = _backbones.equipped(_plan.open_shapes(task), task.settings, task.parents["ids"])
    examples = _plan.open_examples(task, opened)
    found = _plan.traffic(
        examples, task.settings, _plan.children(task, _models.catalogue(task.parents["ids"], opened.tokenizer))
    )
    memory = _plan.estimate(task, found).memory
    return memory.total() - memory["weights"]


def measure(task: Any, folder: Path) -> int:
    """Largest sum of the allocations of an update, with the optimiser's state that was there before."""
    from torch.profiler import ProfilerActivity, profile

    prepared = _job.prepare(task, folder / "run", _plan.open_shapes(task, "cpu"))
    job = prepared.phases[0]()
    updater = Updater(job.parallel, job.source, job.loss, job.weights, job.rewards, job.settings)
    batches = epoch_batches(job.source.lengths(), job.settings.batch_size, job.settings.seed, 0)
    updater.update(batches[0], 1e-4, 1)
    now = peak = 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for step, rows in enumerate(batches, 2):
            updater.update(rows, 1e-4, step)
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    states = [value for state in updater.optimizer.state.values() for value in state.values()]
    return peak + sum(value.numel() * value.element_size() for value in states)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
