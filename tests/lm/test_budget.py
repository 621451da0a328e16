"""`ilrec plan`: memory against torch's own count of allocations, counts against batches, sizes against published ones."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Finished
from transformers import AutoConfig, AutoModelForCausalLM

from ilrec_cli import config as configs
from ilrec_cli.batching import epoch_batches, share
from ilrec_cli.lm import shapes
from ilrec_cli.lm.guessed import GuessedTokenizer
from ilrec_cli.settings import Plan
from ilrec_cli.stages import _backbones, _plan
from ilrec_cli.stages import _task as tasks

PUBLISHED = {
    "Llama-3.1-8B": 8_030_261_248, "Llama-3.2-1B": 1_235_814_400, "Llama-3.2-3B": 3_212_749_824,
    "Qwen2-0.5B": 494_032_768, "Qwen2.5-0.5B": 494_032_768, "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688, "Qwen2.5-7B": 7_615_616_512, "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976, "Qwen3-4B": 4_022_468_096, "Qwen3-8B": 8_190_735_360,
}  # fmt: skip
FEW = {"limit_users": 20}  # a profile of many chunks of a large vocabulary takes minutes
GRID = [
    (1_000, "sft", {}),
    (1_000, "sft", {"tuning": "lora", "gradient_checkpointing": True}),
    (33_000, "sft", {"loss_chunk": 32, "micro_batch": 4, **FEW}),
    (1_000, "ilrec", {"targets": "all", "dtype": "bfloat16"}),
    (33_000, "ilrec", {"loss_chunk": 32, "tuning": "lora", **FEW}),
]


def script() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "plan_memory.py"
    spec = importlib.util.spec_from_file_location("plan_memory", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("rows", "method", "settings"), GRID, ids=str)
def test_planned_memory_is_what_is_allocated(
    world: Path, rows: int, method: str, settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    found = script().compare(world, rows, method, settings, width=32, layers=3)
    assert 0.8 < found["ratio"] < 1.2, found


def test_known_sizes_are_the_published_ones() -> None:
    assert PUBLISHED.keys() == shapes.KNOWN.keys()
    for name in ("Llama-3.2-1B", "Qwen2.5-7B", "Qwen3-0.6B"):
        model = shapes.skeleton(f"somebody/{name}", torch.float32).model
        assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]
    for name, (architecture, _, values) in shapes.KNOWN.items():
        assert parameters(architecture, *values) == PUBLISHED[name], name


def parameters(architecture: str, v: int, d: int, f: int, n: int, h: int, k: int, size: int, tied: bool) -> int:
    """By hand: embeddings, head, norms, attention (Qwen2: biases; Qwen3: norms of queries and keys), feed-forward."""
    attention = 2 * d * h * size + 2 * d * k * size
    extra = {"llama": 0, "qwen2": (h + 2 * k) * size, "qwen3": 2 * size}[architecture]
    return v * d * (1 if tied else 2) + d + n * (attention + extra + 3 * d * f + 2 * d)


def test_counts_are_those_of_the_batches(world: Path) -> None:
    values = {"dataset": "toy", "work": str(world), "method": "sft", "batch_size": 24, "micro_batch": 5, "devices": 2,
              "epochs": 3, "targets": "last"}  # fmt: skip
    task = tasks.decided(configs.build(Plan, values, "plan"), rewards=False)
    opened = _backbones.equipped(_plan.open_shapes(task), task.settings, task.parents["ids"])
    examples = _plan.open_examples(task, opened)
    found = _plan.traffic(examples, task.settings, 0)
    tokens = padded = supervised = 0
    sizes = []
    for rows in epoch_batches(examples.lengths(), 24, 0, 0):
        for part in [part for rank in range(2) for part in share(rows, 5, rank, 2) if len(part)]:
            batch = examples.batch(part)
            tokens, padded = tokens + int(batch.mask_BS.sum()), padded + batch.input_BS.numel()
            supervised += len(batch.position_N)
            sizes.append((*batch.input_BS.shape, len(batch.position_N), *batch.history_MT.shape))
    assert (found.tokens, found.padded, found.supervised) == (3 * tokens, 3 * padded, 3 * supervised)
    assert found.accumulates
    assert found.steps == 3 * -(-len(examples) // 24)
    assert {shape[:5] for shape in found.shapes} <= set(sizes)
    assert max(shape.rows * shape.width for shape in found.shapes) == max(size[0] * size[1] for size in sizes)


def test_the_command_says_what_would_fit(world: Path, tmp_path: Path, ilrec: Callable[..., Finished]) -> None:
    script().write_config(tmp_path / "model", 33_000, 64, 2)
    result = ilrec("plan", "--dataset", "toy", "--work", world, "--backbone", tmp_path / "model", "--method", "sft",
                   "--device-memory", "1.15", "--json")  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads(result.out.splitlines()[-1])
    assert found["fits"] is False
    assert found["tokens_are_estimated"]
    assert found["advice"]["fits"]
    assert found["advice"]["memory_with_reserve"] <= 1.15 * 2**30 < found["memory_with_reserve"]
    assert f"add {found['advice']['flags']}" in result.out
    assert f"with these flags and {found['advice']['flags']}\n" in result.out
    hopeless = ilrec("plan", "--dataset", "toy", "--work", world, "--method", "sft", "--device-memory", "0.5")
    assert "It does NOT fit" in hopeless.out
    assert "Next:" not in hopeless.out


def test_measured_hours(world: Path, ilrec: Callable[..., Finished]) -> None:
    result = ilrec("plan", "--dataset", "toy", "--work", world, "--hidden-size", "16", "--n-heads", "2", "--measure",
                   "--batch-size", "16", "--json")  # fmt: skip
    assert result.code == 0, result.err
    found = json.loads(result.out.splitlines()[-1])
    time = found["time"]
    assert len(time["update_seconds"]) == 6
    assert time["hours"] == pytest.approx(found["steps"] * np.mean(time["update_seconds"]) / 3600)
    assert not (world / "toy" / "runs" / "train").exists()


def test_shards_hold_their_part(world: Path, tmp_path: Path) -> None:
    """Weights, gradients and moments of eight devices are an eighth; a copy on each is not."""
    script().write_config(tmp_path / "model", 33_000, 64, 2)
    values = {"dataset": "toy", "work": str(world), "method": "sft", "backbone": str(tmp_path / "model"), "devices": 8}
    found = {}
    for name, more in {"copies": {}, "shards": {"shard": True}}.items():
        task = tasks.decided(configs.build(Plan, {**values, **more}, "plan"), rewards=False)
        opened = _backbones.equipped(_plan.open_shapes(task), task.settings, task.parents["ids"])
        counted = _plan.traffic(_plan.open_examples(task, opened), task.settings, 0)
        found[name] = _plan.estimate(task, counted).memory
    for kind in ("weights", "optimiser"):
        assert found["shards"][kind] == -(-found["copies"][kind] // 8)
    assert found["shards"].total() < found["copies"].total()


def test_what_is_not_here_is_not_fetched(world: Path, ilrec: Callable[..., Finished]) -> None:
    line = ilrec("plan", "--dataset", "toy", "--work", world, "--backbone", "nobody/nothing").one_line()
    assert "nothing is downloaded to plan" in line
    quantised = ilrec("plan", "--dataset", "toy", "--work", world, "--tuning", "lora", "--quantize", "4bit").one_line()
    assert "cannot be planned" in quantised


def test_methods_of_several_phases_are_planned_to_the_end_of_fine_tuning(
    trained: Path, ilrec: Callable[..., Finished]
) -> None:
    common = ["plan", "--dataset", "toy", "--work", trained, "--method", "s-dpo"]
    planned = ilrec(*common, "--json", "--hidden-size", "16", "--n-heads", "2")
    assert planned.code == 0, planned.err
    assert "This is the fine-tuning that comes first. Not planned: s_dpo." in planned.out
    assert json.loads(planned.out.splitlines()[-1])["phases_not_planned"] == ["s_dpo"]
    assert "with --from that is left out, and s_dpo is all of 's_dpo'" in ilrec(*common, "--from", "sft").one_line()
    assert "device_memory is 1e+300" in ilrec(*common, "--device-memory", "1e300").one_line()


def test_what_changes_the_result_is_proposed_last() -> None:
    settings = Plan(dataset="toy", backbone="some/model", devices=2, batch_size=8)
    tried = list(_plan.smaller(settings, positions=100))
    first = {name: next(place for place, each in enumerate(tried) if getattr(each, name) == value)
             for name, value in {"micro_batch": 1, "shard": True, "dtype": "bfloat16", "tuning": "lora"}.items()}  # fmt: skip
    assert list(first.values()) == sorted(first.values())
    goes_on = _plan.smaller(replace(settings, from_="a-run"), positions=100)
    assert {each.tuning for each in goes_on} == {"full"}


def test_guessed_tokens_are_words_and_signs() -> None:
    tokenizer = GuessedTokenizer(100, starts=True)
    assert len(tokenizer.encode("A user chose these items, the oldest first: ", add_special_tokens=False)) == 11
    assert tokenizer("a").input_ids[0] == 98
    assert tokenizer("a", add_special_tokens=False).input_ids == tokenizer.encode("a", add_special_tokens=False)


def test_a_folder_needs_no_weights(tmp_path: Path) -> None:
    script().write_config(tmp_path / "model", 500, 32, 2)
    opened = shapes.skeleton(str(tmp_path / "model"), torch.float32)
    real = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "model"))
    assert {name: value.shape for name, value in opened.model.state_dict().items()} == {
        name: value.shape for name, value in real.state_dict().items()
    }
    assert all(value.is_meta for value in opened.model.parameters())
