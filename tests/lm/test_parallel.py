"""Two processes against one: copies (DDP) and shards (FSDP2) make the same updates, and checkpoints fit each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_LM, llama, qwen2
from parallel_worker import TWENTY, pair_job, prompt, rollout_job
from processes import LIMIT
from safetensors.torch import load_file
from test_backbone import saved_base
from test_loop import a_job, catalogue, run
from test_rows import mixed_job

from ilrec_cli import cli
from ilrec_cli.json_log import read_log
from ilrec_cli.lm.decode import beam_search

PATHS = [str(Path(__file__).parents[level]) for level in (0, 1, 2)]
RATE = 1e-2  # of a_job


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left; one launch for all tests."""
    folder = tmp_path_factory.mktemp("together")
    stopped(folder / "from-one", 9)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(Path(__file__).with_name("parallel_worker.py")), str(folder)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS)}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=LIMIT, check=False)
    # Judged by what the processes wrote: gloo rarely aborts at exit, after all work is done.
    assert (folder / "done-0").exists(), done.stderr[-5000:]
    assert (folder / "done-1").exists(), done.stderr[-5000:]
    return folder


def stopped(folder: Path, after: int) -> None:
    """A run of one process that was asked to stop."""
    job = a_job(folder, replace(TWENTY, micro_batch=None))
    calls: list[int] = []

    def loss(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return job.loss(*arguments, **named)

    with pytest.raises(KeyboardInterrupt):
        run(replace(job, loss=loss))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, torch.Tensor], Path]]:
    """The same twenty steps in one process, by number format; and with two micro-batches a step."""
    found = {}
    for dtype in (torch.float64, torch.float32):
        for name, micro in (("", None), ("-accumulated", 8)):
            folder = tmp_path_factory.mktemp("alone")
            weights, progress = run(a_job(folder, replace(TWENTY, micro_batch=micro), dtype))
            assert progress.step == 20
            found[str(dtype)[6:] + name] = weights, folder
    return found


@pytest.mark.parametrize("mode", ["copy", "shard"])
def test_several_tasks_on_two_processes_are_those_on_one(together: Path, tmp_path: Path, mode: str) -> None:
    """Each term is divided by its own count over both."""
    expected, _ = run(mixed_job(tmp_path, replace(TWENTY, epochs=2, micro_batch=None)))
    for name, value in load_file(together / f"mixed-{mode}.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9, msg=name)


TOLERANCE = {"float64": 1e-9, "float32": 0.01 * RATE * 20}


@pytest.mark.parametrize("mode", ["copy", "shard"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_two_processes_make_the_updates_of_one(together: Path, alone: Any, mode: str, dtype: str) -> None:
    found, (expected, folder) = load_file(together / f"{mode}-{dtype}.safetensors"), alone[dtype]
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=TOLERANCE[dtype], msg=name)
    ours, theirs = (
        [row for row in read_log(place / "log.jsonl") if "loss" in row]
        for place in (together / f"{mode}-{dtype}", folder)
    )
    for mine, its in zip(ours, theirs, strict=True):
        for key in its.keys() - {"seconds"}:
            assert mine[key] == pytest.approx(its[key], rel=1e-8 if dtype == "float64" else 2e-2, abs=1e-6), key


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_accumulation_makes_the_updates_of_one_pass(alone: Any, dtype: str) -> None:
    (expected, folder), (found, parts) = alone[dtype], alone[f"{dtype}-accumulated"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=TOLERANCE[dtype], msg=name)
    for mine, its in zip(read_log(parts / "log.jsonl"), read_log(folder / "log.jsonl"), strict=True):
        for key in its.keys() - {"seconds"}:
            assert mine[key] == pytest.approx(its[key], rel=1e-8 if dtype == "float64" else 2e-2, abs=1e-6), key


def test_a_checkpoint_of_one_process_goes_on_in_shards(together: Path, alone: Any) -> None:
    expected, _ = alone["float64"]
    for name, value in load_file(together / "from-one.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9, msg=name)


def test_a_checkpoint_of_shards_goes_on_in_one_process(together: Path, tmp_path: Path) -> None:
    settings = replace(TWENTY, schedule="constant", warmup=0.0, max_steps=9)
    expected, _ = run(a_job(tmp_path, settings))
    for name, value in load_file(together / "for-one.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9, msg=name)
    further = replace(settings, max_steps=13)
    expected, _ = run(a_job(tmp_path / "straight", further))
    found, progress = run(a_job(together / "for-one", replace(further, resume=True)))
    assert progress.step == 13
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("mode", ["copy", "shard"])
@pytest.mark.parametrize(("kind", "make"), [("pairs", pair_job), ("rollouts", rollout_job)])
def test_responses_on_two_processes_make_the_updates_of_one(
    together: Path, tmp_path: Path, mode: str, kind: str, make: Any
) -> None:
    job = make(tmp_path)
    expected, progress = run(job)
    for name, value in load_file(together / f"{kind}-{mode}.safetensors").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)
    ours, theirs = progress.costs[0], json.loads((together / f"{kind}-{mode}.json").read_text())[0]
    for key in ("steps", "epochs", "prompt_tokens", "response_tokens"):
        assert theirs[key] == ours[key], key
    if kind == "pairs":  # a process without rows generates answers for another's, and says so
        assert theirs["making_tokens"] == ours["making_tokens"]


def test_processes_of_a_machine_share_arrays_and_refusals(together: Path) -> None:
    assert [(together / f"refused-{rank}").read_text() for rank in (0, 1)] == ["no text"] * 2


@pytest.mark.parametrize("name", ["llama", "qwen2-tied"])
def test_sharded_decoding_is_decoding(together: Path, name: str) -> None:
    model = llama() if name == "llama" else qwen2(tie_word_embeddings=True)
    for rank, sizes in ((0, [3, 4, 2]), (1, [5])):
        found = load_file(together / f"{name}-{rank}.safetensors")
        assert sorted(map(int, found)) == sorted(sizes)
        for size in sizes:
            leaf, score = beam_search(
                model, prompt(size), torch.ones(2, size, dtype=torch.long), catalogue(40).trie, beams=4
            )
            torch.testing.assert_close(found[str(size)][0].long(), leaf)
            torch.testing.assert_close(found[str(size)][1].float(), score)


SEPARATE = ["-o", "layer_head=separate", "-o", "lambda_cpd=0.3"]
SHARDED = {
    "full": ([], 1e-4),
    "tasks": (["--tasks", "next_item,text_to_item"], 1e-4),
    "lora": (["--tuning", "lora", "--lora-dropout", "0", *SEPARATE], 1e-6),
    "lora-bfloat16": (["--tuning", "lora", "--lora-dropout", "0", "--dtype", "bfloat16", "--gradient-checkpointing",
                       *SEPARATE], 1e-3),
    "ids": (["--vocab-scope", "ids", "--micro-batch", "3", "--probe-layers", "all", *SEPARATE], 1e-4),
}  # fmt: skip


@pytest.mark.parametrize(
    "mode", [mode if mode == "full" else pytest.param(mode, marks=pytest.mark.soak) for mode in SHARDED]
)
def test_two_sharded_processes_by_the_command(own_world: Path, tmp_path: Path, mode: str) -> None:
    """Trained, validated, saved: the model on disk opens as any other, with the figures of one process."""
    flags, tolerance = SHARDED[mode]
    if "lora" in mode:
        flags = [*flags, "--backbone", saved_base(tmp_path / "base", tied=True, padding=9)]
    common = ["train", "--dataset", "toy", "--work", str(own_world), *TINY_LM, "--method", "ilrec", *flags, "--json",
              "--quiet"]  # fmt: skip
    alone = cli.invoke([*common, "--name", "alone"])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ilrec_cli",
               *common, "--name", "shards", "--shard"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS[2]}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=LIMIT, check=False)
    train = own_world / "toy" / "runs" / "shards" / "train"
    assert (train / "manifest.json").is_file(), done.stderr[-3000:]
    saved = sorted(path.relative_to(train) for path in train.rglob("*.safetensors"))
    assert len(saved) == (1 if mode in ("full", "tasks") else 2), "separate heads lie beside the model"
    for path in saved:
        found, wanted = (load_file(folder / path) for folder in (train, Path(alone["path"])))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=name)
    rows, expected = (
        [row for row in read_log(path / "log.jsonl") if "best" in row] for path in (train, Path(alone["path"]))
    )
    exact = 0.05 if "bfloat16" in mode else 1e-6  # a swap of two near-equal scores
    assert [row["valid_ndcg@10"] for row in rows] == pytest.approx(
        [row["valid_ndcg@10"] for row in expected], abs=exact
    )
