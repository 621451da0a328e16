"""Rows: every batch says the same as a loop over its examples; terms are divided by their own counts however a batch is split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import SETTINGS, a_job, catalogue, run

from ilrec_cli.json_log import read_log
from ilrec_cli.lm.rows import Rows, Runs
from ilrec_cli.lm.terms import Terms
from ilrec_cli.methods.ilrec import Config, weights
from ilrec_cli.methods.ilrec.loss import make_loss
from ilrec_cli.stages._job import reward_source

ITEMS = catalogue(40)
PAD = 2


def mixed_rows(count: int = 49, seed: int = 0, shown: float = 0.5) -> tuple[Rows, list[dict[str, Any]]]:
    """Examples of two tasks: an item after a history, with rewards, or some text; and the same as a list."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        prompt = rng.integers(3, 16, size=rng.integers(1, 9)).tolist()
        if rng.random() < shown:
            item = int(rng.integers(40))
            history = rng.integers(0, 40, size=rng.integers(1, 6)).tolist()
            example = {"response": ITEMS.token_ID[item].tolist(), "node": ITEMS.node_ID[item].tolist(), "history": history, "task": 0}  # fmt: skip
        else:
            response = [*rng.integers(3, 16, size=rng.integers(0, 5)).tolist(), 1]
            example = {"response": response, "node": [-1] * len(response), "history": [], "task": 1}
        examples.append({"prompt": prompt, **example})
    prompt, response, node, history = (
        Runs.of_lists([each[name] for each in examples]) for name in ("prompt", "response", "node", "history")
    )
    return Rows(prompt, response, node.flat, history, np.array([each["task"] for each in examples]), PAD), examples


class Scorer:
    """A collaborative model: an item is liked after its predecessor."""

    def scores(self, history_MT: torch.Tensor) -> torch.Tensor:
        length_M1 = (history_MT >= 0).sum(1, keepdim=True)
        last_M1 = torch.nn.functional.pad(history_MT, (1, 0), value=0).gather(1, length_M1)
        return -((torch.arange(40) - last_M1 - 1) % 40).float() * (length_M1 > 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 8), min_size=1, max_size=6, unique=True), st.sampled_from([0.0, 0.5, 1.0]))  # fmt: skip
def test_a_batch_is_what_a_loop_over_its_examples_gives(seed: int, chosen: list[int], shown: float) -> None:
    rows, examples = mixed_rows(9, seed, shown)
    batch, width = rows.batch(np.array(chosen)), max(rows.lengths()[chosen])
    place = 0
    for row, example in enumerate(examples[each] for each in chosen):
        tokens = example["prompt"] + example["response"]
        assert batch.input_BS[row].tolist() == tokens + [PAD] * (width - len(tokens))
        assert batch.mask_BS[row].tolist() == [1] * len(tokens) + [0] * (width - len(tokens))
        for index, token in enumerate(example["response"]):
            assert batch.position_N[place] == row * width + len(example["prompt"]) + index - 1
            assert (batch.target_N[place], batch.node_N[place]) == (token, example["node"][index])
            assert batch.task_N is not None
            assert batch.task_N[place] == example["task"]
            if example["node"][index] >= 0:
                history = batch.history_MT[batch.event_N[place]]
                assert history[history >= 0].tolist() == example["history"]
            place += 1
    assert place == len(batch.target_N) == rows.supervised(np.array(chosen))
    assert (batch.node_N >= 0).sum() == rows.rewarded(np.array(chosen))
    assert len(batch.history_MT) == max(1, sum(examples[each]["task"] == 0 for each in chosen)), "and no other history"
    assert (batch.event_N.diff() >= 0).all()
    assert batch.event_N.max() < len(batch.history_MT)
    input_BS, mask_BS = rows.prompts(np.array(chosen))
    for row, each in enumerate(chosen):
        assert input_BS[row][mask_BS[row].bool()].tolist() == examples[each]["prompt"]
        assert mask_BS[row, -1]


def test_what_does_not_fit_together_is_refused() -> None:
    rows, _ = mixed_rows(4)
    with pytest.raises(ValueError, match=r"parts of \[3, 4\] examples"):
        replace(rows, task_E=rows.task_E[:3])
    with pytest.raises(ValueError, match="empty"):
        replace(rows, prompt=Runs.of_lists([[], [3], [3], [3]]))


def mixed_job(folder: Path, settings_: Any = SETTINGS, rows: Rows | None = None, **parallel: Any) -> Any:
    method = Config(lambda_cpd=0.1, mu_crr=0.3)
    rewards = reward_source(Scorer(), ITEMS.trie)
    return replace(
        a_job(folder, settings_, **parallel), source=rows or mixed_rows()[0], loss=make_loss(method), weights=weights(method),
        rewards=rewards,
    )  # fmt: skip


@pytest.mark.parametrize("split", [{"micro_batch": 5}, {"micro_batch": 1}, {"loss_chunk": 3}], ids=str)
def test_any_split_of_a_batch_of_several_tasks_gives_the_same_update(tmp_path: Path, split: dict[str, int]) -> None:
    whole, _ = run(mixed_job(tmp_path / "a"))
    parts, _ = run(mixed_job(tmp_path / "b", replace(SETTINGS, **split)))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("chunk", [0, 3])
def test_cross_entropy_of_each_task_is_a_sum_over_its_positions(tmp_path: Path, chunk: int) -> None:
    job, rows = mixed_job(tmp_path), np.arange(16)
    model = job.parallel.model
    model.task_names = ("items", "words")
    batch = job.source.batch(rows)
    terms: Terms = model(batch, job.loss, job.rewards(batch), chunk)
    logits_NV = (
        model.backbone(input_ids=batch.input_BS, attention_mask=batch.mask_BS)
        .logits.detach()
        .flatten(0, 1)[batch.position_N]
    )
    for number, name in enumerate(model.task_names):
        expected = [
            -float(logits_NV[place].log_softmax(-1)[batch.target_N[place]])
            for place in range(len(batch.target_N)) if batch.task_N[place] == number
        ]  # fmt: skip
        total, count = terms.stats[f"ce_{name}"]
        assert count == len(expected)
        assert float(total) == pytest.approx(sum(expected), rel=1e-6)


@pytest.mark.parametrize("scope", ["trie", "all"])
def test_each_term_is_the_mean_over_the_positions_that_have_it(tmp_path: Path, scope: str) -> None:
    """The gradient of one update against autograd on the formula L = L_CPO + lambda L_CPD + mu L_CRR."""
    from ilrec_cli.lm.steps import Updater

    job = mixed_job(tmp_path, replace(SETTINGS, micro_batch=4, clip=1e9))
    job = replace(job, loss=make_loss(Config(lambda_cpd=0.1, mu_crr=0.3, crr_scope=scope)))
    updater = Updater(job.parallel, job.source, job.loss, job.weights, job.rewards, job.settings)
    rows = np.arange(16)
    gradients: list[torch.Tensor] = []
    updater.optimizer.step = lambda: gradients.extend(p.grad.clone() for p in updater.parameters)  # type: ignore[method-assign, assignment, func-returns-value]
    terms, _ = updater.update(rows, 0.0, 1)
    tokens, rewarded = job.source.supervised(rows), job.source.rewarded(rows)
    assert (terms.tokens, terms.crr_tokens) == (tokens, rewarded)
    assert 0 < rewarded < tokens
    batch = job.source.batch(rows)
    whole: Terms = job.parallel.model(batch, job.loss, job.rewards(batch), 0)
    loss = whole.cpo / tokens + 0.1 * whole.cpd / tokens + 0.3 * whole.crr / rewarded
    for found, expected in zip(gradients, torch.autograd.grad(loss, updater.parameters), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_batch_without_any_rewards_trains(tmp_path: Path) -> None:
    rows, _ = mixed_rows(20, shown=0.0)
    job = mixed_job(tmp_path / "a", replace(SETTINGS, epochs=1, log_every=1), rows)
    _, progress = run(job)
    assert progress.step == 2
    log = read_log(tmp_path / "a" / "log.jsonl")
    assert "crr" not in log[0]
    assert log[0]["loss"] == pytest.approx(log[0]["cpo"] + 0.1 * log[0]["cpd"], rel=1e-9)
    # Negatives that must continue an item: an answer in words has none, and its CPO is cross-entropy.
    of_trie = Config(mu_crr=0.0, negatives_scope="trie")
    job = mixed_job(tmp_path / "b", replace(SETTINGS, epochs=1, log_every=1), rows)
    rewards = reward_source(None, ITEMS.trie)
    run(replace(job, loss=make_loss(of_trie), weights=weights(of_trie), rewards=rewards))
    for row in read_log(tmp_path / "b" / "log.jsonl"):
        if "cpo" in row:
            assert row["cpo"] == pytest.approx(row["ce"], rel=1e-9)
            assert row["negatives"] == 0
