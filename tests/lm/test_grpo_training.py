"""GRPO by the command: killed in any phase and resumed, from a run, adapters, rewards of a collaborative model, costs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished
from test_preference_training import run, train, weights

from ilrec_cli.json_log import read_log
from ilrec_cli.lm.steps import Updater

Command = Callable[..., Finished]
SAMPLED = ["--method", "grpo", "-o", "rollouts=sample", "-o", "group=4", "-o", "prefix=1", "-o",
           "policy_learning_rate=1e-2", "--save-every", "1", "--dropout", "0.1"]  # fmt: skip


def test_stopped_in_any_phase_it_goes_on_to_the_same_bits(
    own_world: Path, ilrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(ilrec, own_world, "straight", *SAMPLED).code == 0
    update = Updater.update
    for stop_after in (2, 4, 5):

        def counted(self: Updater, rows: Any, rate: float, step: int, *, after: int = stop_after, **more: Any) -> Any:
            if step == after:
                os.kill(os.getpid(), signal.SIGTERM)
            return update(self, rows, rate, step, **more)

        monkeypatch.setattr(Updater, "update", counted)
        name = f"stop{stop_after}"
        assert train(ilrec, own_world, name, *SAMPLED, "--quiet").code == 130
        monkeypatch.setattr(Updater, "update", update)
        result = train(ilrec, own_world, name, *SAMPLED, "--resume")
        assert result.code == 0, result.err
        for key, value in weights(own_world, "straight").items():
            assert torch.equal(weights(own_world, name)[key], value), (stop_after, key)
        assert run(own_world, name).digest == run(own_world, "straight").digest
        assert not list(run(own_world, name).path.rglob("start-*")), "the reference goes with the checkpoints"


def test_killed_within_a_step_it_goes_on_to_the_same_bits(
    own_world: Path, ilrec: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the power failed while the reference's weights stand in the model."""
    from ilrec_cli.methods.grpo.data import Rollouts

    thinking = [*SAMPLED, "-o", "thoughts=2"]
    assert train(ilrec, own_world, "straight", *thinking).code == 0
    scored, calls = Rollouts._log_probs, []

    def killed(self: Rollouts, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise SystemError("as if killed")
        return scored(self, batch)

    monkeypatch.setattr(Rollouts, "_log_probs", killed)
    with pytest.raises(SystemError):
        train(ilrec, own_world, "killed", *thinking, "--quiet")
    monkeypatch.setattr(Rollouts, "_log_probs", scored)
    assert train(ilrec, own_world, "killed", *thinking, "--resume").code == 0
    assert run(own_world, "killed").digest == run(own_world, "straight").digest


def test_from_a_run_with_adapters_and_a_collaborative_reward(own_world: Path, ilrec: Command) -> None:
    lora = ["--tuning", "lora", "--lora-dropout", "0", "--targets", "last"]
    assert train(ilrec, own_world, "start", "--method", "sft", *lora).code == 0
    result = ilrec(
        "train", "--dataset", "toy", "--work", own_world, "--method", "grpo", "--from", "start", "--name", "tuned",
        "--cf", "sasrec", "--max-steps", "3", "--valid-users", "5", "--valid-beams", "50", "--log-every", "1",
        "--batch-size", "4", "-o", "cf=1", "-o", "rank=1", "-o", "policy_learning_rate=1e-2",
    )  # fmt: skip
    assert result.code == 0, result.err
    tuned = run(own_world, "tuned")
    assert {"from", "cf"} <= tuned.manifest["parents"].keys()
    log = read_log(tuned.path / "log.jsonl")
    first, *_, last = [row for row in log if "kl" in row]
    assert first["kl"] == pytest.approx(0, abs=1e-6), "the reference is the run"
    assert last["kl"] > 1e-6
    for name in ("policy", "reward", "rollout_hit@1", "rollout_hit@all", "unique", "entropy"):
        assert all(name in row for row in log if "kl" in row), name
    assert "valid_hit@50" in log[-1]
    (row,) = tuned.json("cost.json")["phases"]
    assert row["generated"] == 3 * 4 * 8
    assert row["making_tokens"] > row["prompt_tokens"] + row["response_tokens"]
    assert 0 < row["making_seconds"] < row["seconds"]


def test_titles_of_unlike_lengths_and_all_tokens_alike(own_world: Path, ilrec: Command) -> None:
    ilrec("build-ids", "--dataset", "toy", "--work", own_world, "--scheme", "title", "--name", "titles")
    result = train(
        ilrec, own_world, "titles", "--method", "grpo", "--ids", "titles", "--targets", "last", "--max-steps", "1",
        "-o", "average=token", "-o", "group=3", "--micro-batch", "5",
    )  # fmt: skip
    assert result.code == 0, result.err


def test_a_run_that_thinks_is_evaluated_with_thoughts(own_world: Path, ilrec: Command) -> None:
    thoughts = ["--method", "grpo", "-o", "rollouts=sample", "-o", "thoughts=3", "-o", "group=3", "--targets", "last"]
    assert train(ilrec, own_world, "thinks", *thoughts, "--max-steps", "2", "--batch-size", "4").code == 0
    assert run(own_world, "thinks").json("layout.json")["thought"] == 3
    evaluated = ilrec("evaluate", "--dataset", "toy", "--work", own_world, "--run", "thinks", "--limit-users", "3")
    assert evaluated.code == 0, evaluated.err
    assert (
        "thinks before it answers"
        in ilrec("export", "--dataset", "toy", "--work", own_world, "--run", "thinks").one_line()
    )
    refused = train(ilrec, own_world, "scope", *thoughts, "--vocab-scope", "ids").one_line()
    assert "thoughts are free tokens" in refused
    on = ilrec("train", "--dataset", "toy", "--work", own_world, "--method", "dpo", "--from", "thinks", "--name", "on",
               "--max-steps", "1", "--valid-users", "3", "--valid-beams", "2")  # fmt: skip
    assert on.code == 0, on.err
    assert "thought" not in run(own_world, "on").json("layout.json")
