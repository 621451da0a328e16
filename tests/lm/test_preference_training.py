"""Preference tuning by the command: every phase stopped and resumed, starting from runs, adapters, costs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_LM, Finished
from safetensors.torch import load_file
from test_backbone import saved_base
from test_preference_data import material

from ilrec_cli import artifacts, checkpoint
from ilrec_cli.json_log import read_log
from ilrec_cli.lm.steps import Updater
from ilrec_cli.methods import _pairs, s_dpo
from ilrec_cli.methods.s_dpo.loss import make_loss

Command = Callable[..., Finished]
FEW = ["--max-steps", "3", "--valid-users", "5", "--valid-beams", "2", "--log-every", "1"]


def train(ilrec: Command, work: Path, name: str, *more: str) -> Finished:
    return ilrec("train", "--dataset", "toy", "--work", work, "--name", name, *TINY_LM, *FEW, *more)


def run(work: Path, name: str) -> artifacts.Artifact:
    return artifacts.read(work / "toy" / "runs" / name / "train", "run")


def weights(work: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run(work, name).path / "model" / "model.safetensors")


def updated(source: Any, some: Any, micro_batch: int | None, chunk: int | None = None) -> dict[str, torch.Tensor]:
    """Weights after two updates."""
    settings = replace(some.settings, micro_batch=micro_batch, loss_chunk=chunk)
    updater = Updater(some.parallel, source, make_loss(some.options), {"s_dpo": 1.0}, None, settings)  # type: ignore[arg-type]
    for step in (1, 2):
        updater.update(np.arange(8) + 8 * step, 1e-2, step)
    return {name: value.detach().clone() for name, value in some.parallel.model.named_parameters()}


@pytest.mark.parametrize(("micro_batch", "chunk"), [(3, None), (1, None), (None, 5)])
def test_accumulation_and_chunks_make_the_updates_of_one_batch(
    micro_batch: int | None, chunk: int | None, tmp_path: Path
) -> None:
    found = []
    for number, how in enumerate(((None, None), (micro_batch, chunk))):
        some = material(tmp_path / str(number), s_dpo.Config(negatives=3))
        some.parallel.model.double()
        found.append(updated(_pairs.random_pairs(some), some, *how))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-6, msg=name)


ROUNDS = ["--method", "sprec", "-o", "iterations=1", "-o", "pair_learning_rate=1e-2", "-o", "round_learning_rate=1e-2"]


def test_sprec_stopped_in_any_phase_goes_on_to_the_same_bits(
    own_world: Path, ilrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(ilrec, own_world, "rounds", *ROUNDS).code == 0
    straight = weights(own_world, "rounds")
    update, digest = Updater.update, run(own_world, "rounds").digest
    for stop_after in (2, 5, 8):

        def counted(self: Updater, rows: Any, rate: float, step: int, *, after: int = stop_after, **more: Any) -> Any:
            if step == after:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(self, rows, rate, step, **more)

        monkeypatch.setattr(Updater, "update", counted)
        name = f"stop{stop_after}"
        assert train(ilrec, own_world, name, *ROUNDS, "--quiet").code == 130
        monkeypatch.setattr(Updater, "update", update)
        result = train(ilrec, own_world, name, *ROUNDS, "--resume")
        assert result.code == 0, result.err
        for key, value in straight.items():
            assert torch.equal(weights(own_world, name)[key], value), (stop_after, key)
        assert run(own_world, name).digest == digest
        found, wanted = (run(own_world, each).json("cost.json")["phases"] for each in (name, "rounds"))
        for mine, its in zip(found, wanted, strict=True):
            assert {key: mine[key] for key in its if "seconds" not in key} == {
                key: its[key] for key in its if "seconds" not in key
            }, "what was done before the stop is counted, once"


def test_killed_while_a_phase_is_made_it_is_made_again(
    own_world: Path, ilrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(ilrec, own_world, "rounds", *ROUNDS).code == 0
    write = checkpoint.write_tensors

    def killed(path: Path, *arguments: Any, **named: Any) -> None:
        if path.parent.name == "3":
            raise SystemError("as if killed")
        write(path, *arguments, **named)

    monkeypatch.setattr(checkpoint, "write_tensors", killed)
    with pytest.raises(SystemError):
        train(ilrec, own_world, "killed", *ROUNDS, "--quiet")
    monkeypatch.setattr(checkpoint, "write_tensors", write)
    assert train(ilrec, own_world, "killed", *ROUNDS, "--resume").code == 0
    assert run(own_world, "killed").digest == run(own_world, "rounds").digest


def test_killed_before_a_phases_first_step_what_was_made_is_counted(
    own_world: Path, ilrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(ilrec, own_world, "rounds", *ROUNDS).code == 0
    update = Updater.update

    def killed(self: Updater, rows: Any, rate: float, step: int, **more: Any) -> Any:
        if step == 4:
            raise SystemError("as if killed")
        return update(self, rows, rate, step, **more)

    monkeypatch.setattr(Updater, "update", killed)
    with pytest.raises(SystemError):
        train(ilrec, own_world, "killed", *ROUNDS, "--quiet")
    monkeypatch.setattr(Updater, "update", update)
    assert train(ilrec, own_world, "killed", *ROUNDS, "--resume").code == 0
    found, wanted = (run(own_world, name).json("cost.json")["phases"][1] for name in ("killed", "rounds"))
    assert found["making_tokens"] == wanted["making_tokens"] > 0
    assert found["generated"] == wanted["generated"] > 0
    assert found["making_seconds"] > 0


def test_from_a_run_its_weights_are_the_reference_and_its_settings_are_taken_over(
    own_world: Path, ilrec: Command
) -> None:
    assert train(ilrec, own_world, "start", "--method", "sft", "--targets", "last", "--vocab-scope", "ids").code == 0
    result = ilrec(
        "train", "--dataset", "toy", "--work", own_world, "--method", "sdpo", "--from", "start", "--name", "tuned",
        *FEW, "-o", "pair_learning_rate=1e-3",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "Phase 1 of 1: s_dpo" in result.out
    start, tuned = run(own_world, "start"), run(own_world, "tuned")
    assert tuned.manifest["parents"]["from"] == start.digest
    for name in ("hidden_size", "targets", "vocab_scope", "tuning"):
        assert tuned.config[name] == start.config[name]
    assert tuned.config["method"] == "s_dpo"
    assert tuned.json("layout.json") == start.json("layout.json")
    moved = [
        (weights(own_world, "tuned")[name] - value).abs().max() for name, value in weights(own_world, "start").items()
    ]
    assert 0 < max(moved) < 0.01, "three small steps from where the run ended"
    first = read_log(tuned.path / "log.jsonl")[0]
    assert first["phase"] == "s_dpo"
    assert first["s_dpo"] == pytest.approx(np.log(6), abs=1e-4), "margins of zero: softplus(log 5)"
    cost = tuned.json("cost.json")
    assert [row["phase"] for row in cost["before"] + cost["phases"]] == [None, "s_dpo"]
    assert cost["total"]["steps"] == 6
    again = ilrec("train", "--dataset", "toy", "--work", own_world, "--method", "s-dpo", "--from", "start", "--name",
                  "tuned", *FEW, "-o", "pair_learning_rate=1e-3")  # fmt: skip
    assert "Already trained" in again.out
    further = ilrec(
        "train", "--dataset", "toy", "--work", own_world, "--method", "dpo", "--from", "tuned", "--name", "more", *FEW
    )
    assert further.code == 0, further.err
    cost = run(own_world, "more").json("cost.json")
    assert [row["phase"] for row in cost["before"] + cost["phases"]] == [None, "s_dpo", "dpo"]
    assert cost["total"]["steps"] == 9


def test_what_does_not_fit_the_run_is_refused_in_one_line(own_world: Path, ilrec: Command) -> None:
    assert train(ilrec, own_world, "start", "--method", "sft").code == 0
    common = ["train", "--dataset", "toy", "--work", own_world, "--method", "dpo"]
    refused = ilrec(*common, "--from", "start", "--tuning", "lora").one_line()
    assert "run 'start' has --tuning full, lora was asked for" in refused
    assert "no training run 'strat'" in ilrec(*common, "--from", "strat").one_line()
    ilrec("build-ids", "--dataset", "toy", "--work", own_world, "--name", "other", "-o", "codes=8")
    assert "belongs to item identifiers" in ilrec(*common, "--from", "start", "--ids", "other").one_line()
    taken = ilrec(*common, "--from", "start", "--name", "dpo", *FEW, "--learning-rate", "1e-2")
    assert taken.code == 0, "the identifiers are the run's own"
    assert "warning: --learning-rate is that of the fine-tuning" in taken.err


@pytest.mark.parametrize("asked", [("s_dpo", "negatives"), ("dpo", "negatives"), ("grpo", "group")])
def test_more_than_there_is_is_refused_before_the_fine_tuning(
    asked: tuple[str, str], own_world: Path, ilrec: Command
) -> None:
    refused = train(ilrec, own_world, "many", "--method", asked[0], "-o", f"{asked[1]}=1000").one_line()
    assert "1000" in refused
    assert "asked for" in refused
    assert not (own_world / "toy" / "runs" / "many").exists(), "nothing was trained"


@pytest.mark.parametrize("base", ["tiny-llama", "saved"])
def test_adapters_go_on_from_the_adapters_of_the_run(
    base: str, own_world: Path, ilrec: Command, tmp_path: Path
) -> None:
    backbone = saved_base(tmp_path, tied=False) if base == "saved" else base
    lora = ["--backbone", backbone, "--tuning", "lora", "--lora-dropout", "0", "--targets", "last"]
    assert train(ilrec, own_world, "start", "--method", "sft", *lora).code == 0
    result = ilrec("train", "--dataset", "toy", "--work", own_world, "--method", "dpo", "--from", "start", "--name",
                   "tuned", *FEW, "-o", "pair_learning_rate=1e-2")  # fmt: skip
    assert result.code == 0, result.err
    tuned = run(own_world, "tuned")
    rows = [row for row in read_log(tuned.path / "log.jsonl") if "dpo" in row]
    assert rows[0]["dpo"] == pytest.approx(np.log(2), abs=1e-4), "the reference is the run, its adapters and rows"
    assert rows[-1]["dpo"] != pytest.approx(np.log(2), abs=1e-5)
    if base == "saved":
        before, after = (load_file(run(own_world, name).path / "model" / "adapter_model.safetensors")
                         for name in ("start", "tuned"))  # fmt: skip
        assert before.keys() == after.keys()
        assert all(not torch.equal(after[name], value) for name, value in before.items()), "adapters and rows move"
    evaluated = ilrec("evaluate", "--dataset", "toy", "--work", own_world, "--run", "tuned", "--limit-users", "3")
    assert evaluated.code == 0, evaluated.err


@pytest.mark.parametrize("method", ["dpo", "s_dpo", "rosepo", "sprec"])
def test_every_method_runs_with_titles_as_identifiers(method: str, own_world: Path, ilrec: Command) -> None:
    ilrec("build-ids", "--dataset", "toy", "--work", own_world, "--scheme", "title", "--name", "titles")
    result = train(
        ilrec, own_world, method, "--method", method, "--ids", "titles", "--targets", "last", "--max-steps", "1"
    )
    assert result.code == 0, result.err
    phases = json.loads((run(own_world, method).path / "cost.json").read_text())["phases"]
    assert all(row["prompt_tokens"] > 0 and row["response_tokens"] > 0 for row in phases)
    assert all(row["making_tokens"] > 0 for row in phases[1:])


def test_costs_are_counted_by_hand(own_world: Path, ilrec: Command) -> None:
    assert train(ilrec, own_world, "counted", "--method", "s_dpo", "--targets", "last", "--batch-size", "4").code == 0
    sft, pairs = run(own_world, "counted").json("cost.json")["phases"]
    log = [row for row in read_log(run(own_world, "counted").path / "log.jsonl") if "best" in row]
    assert (sft["steps"], pairs["steps"]) == (3, 3)
    assert sft["seconds"] + pairs["seconds"] == pytest.approx(log[-1]["seconds"], abs=0.3)
    # Paths of one length here: a target is n tokens, its end token fed too; each of six responses adds n - 1.
    ids = artifacts.read(own_world / "toy" / "ids" / "text", "ids")
    length = len(ids.table("item_ids")["tokens"][0].as_py()) + 1
    assert sft["response_tokens"] == 3 * 4 * length
    assert pairs["response_tokens"] == 3 * 4 * 6 * (length - 1)
    assert 0 < pairs["making_seconds"] < pairs["seconds"]
    assert pairs["generated"] == 0
