"""GRPO: rewards by hand, advantages and the loss against loops, answers that are the same again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import llama
from test_preference_data import ITEMS, examples, leaves, material

from ilrec_cli.errors import UserError
from ilrec_cli.lm.decode import beam_search
from ilrec_cli.lm.examples import Catalogue
from ilrec_cli.lm.frozen import Frozen
from ilrec_cli.lm.preference import Histories
from ilrec_cli.lm.rank import Ranker
from ilrec_cli.lm.responses import Responses, pack
from ilrec_cli.lm.steps import Updater
from ilrec_cli.methods import grpo
from ilrec_cli.methods.grpo import data, rewards
from ilrec_cli.methods.grpo.loss import k3, make_loss


def test_rewards_are_those_counted_by_hand() -> None:
    """Items 0 and 3 have one identifier; item 4's is the beginning of item 1's."""
    catalogue = Catalogue.of_paths([[5, 6, 7], [5, 6, 8, 9], [5, 7, 7], [5, 6, 7], [5, 6, 8]], 1)
    leaf = catalogue.trie.leaf_of(torch.arange(5)).numpy()
    item = np.array([[2, 3, 1, 4], [2, 3, 1, 4]])
    target = np.array([0, 1])
    right = rewards.exact(leaf[item], leaf[target])
    assert right.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]], "a namesake is right"
    assert rewards.prefix(catalogue, item, target).tolist() == [[1 / 3, 1, 2 / 4, 2 / 3], [1 / 4, 2 / 4, 1, 3 / 4]]
    total = 1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)
    wanted = [-1 / total, -1 / math.log2(3) / total, 0, -1 / math.log2(5) / total]
    assert rewards.rank(np.array([[0, 0, 1, 0], [0, 0, 0, 0]])).tolist() == [pytest.approx(wanted), [0] * 4]
    score = torch.tensor([[0.5, 1.0, 2.0, 3.0, -4.0]])
    assert rewards.collaborative(catalogue.trie, score, leaf[item[:1]]).tolist() == [[2.0, 3.0, 1.0, -4.0]]


def test_advantages_are_the_loop() -> None:
    rng = np.random.default_rng(0)
    reward, present = rng.normal(size=(6, 5)), np.ones((6, 5), dtype=bool)
    reward[1] = 0
    present[2, 3:] = False
    found = rewards.advantages(reward, present)
    for row in range(6):
        own = [value for value, there in zip(reward[row], present[row], strict=True) if there]
        mean = sum(own) / len(own)
        std = math.sqrt(sum((value - mean) ** 2 for value in own) / (len(own) - 1))
        wanted = [(value - mean) / (std + 1e-4) for value in own] + [0.0] * (5 - len(own))
        assert found[row].tolist() == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    assert not found[1].any(), "equal rewards move nothing"
    assert torch.tensor(reward[0]).std().item() == pytest.approx(np.std(reward[0], ddof=1))


def a_batch(rows: int = 3, answers: int = 4) -> tuple[torch.Tensor, Responses]:
    """Answers of 1 to 4 tokens; the last of row 1 is absent."""
    rng = np.random.default_rng(1)
    response = rng.integers(3, 9, size=(rows, answers, 4))
    response[np.arange(4) >= rng.integers(1, 5, size=(rows, answers))[:, :, None]] = -1
    response[1, -1] = -1
    packed = pack(np.arange(rows) + 3, np.ones(rows, dtype=int), response)
    log_prob = torch.from_numpy(np.where(response >= 0, rng.uniform(-3, 0, size=response.shape), 0.0))
    extra = {
        "advantage": torch.from_numpy(rng.normal(size=(rows, answers))),
        "token_reference": log_prob + torch.from_numpy(rng.normal(size=response.shape)),
        "reward": torch.zeros(rows, answers), "right": torch.zeros(rows, answers), "unique": torch.ones(rows),
    }  # fmt: skip
    extra["advantage"][1, -1] = 0
    return log_prob, packed._replace(extra=extra)


@pytest.mark.parametrize("average", ["sequence", "token"])
def test_loss_and_gradient_are_the_loop(average: Any) -> None:
    log_prob, batch = a_batch()
    advantage, reference = batch.extra["advantage"].tolist(), batch.extra["token_reference"].tolist()
    policy, kl, slopes, tokens = 0.0, 0.0, torch.zeros_like(log_prob), 0
    for row, own in enumerate(log_prob.tolist()):
        length = [int((batch.index_BRT[row, answer] >= 0).sum()) for answer in range(4)]
        present = sum(count > 0 for count in length)
        for answer, count in enumerate(length):
            for place in range(count):
                share = 1 / count / present if average == "sequence" else 1.0
                d = reference[row][answer][place] - own[answer][place]
                policy -= share * advantage[row][answer]
                kl += share * (math.exp(d) - d - 1)
                slopes[row, answer, place] = share * (-advantage[row][answer] + 0.3 * (1 - math.exp(d)))
                tokens += 1
    given = log_prob.clone().requires_grad_()
    terms = make_loss(grpo.Config(average=average))(given, batch)
    assert terms.losses["policy"][0].item() == pytest.approx(policy, rel=1e-12)
    assert terms.losses["kl"][0].item() == pytest.approx(kl, rel=1e-12)
    assert {int(count) for _, count in terms.losses.values()} == {3 if average == "sequence" else tokens}
    (terms.losses["policy"][0] + 0.3 * terms.losses["kl"][0]).backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, slopes, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_distance_is_finite_with_its_gradient_at_any_difference(kind: torch.dtype) -> None:
    d = torch.tensor([-1e4, -90.0, -1e-3, 0.0, 3.0, 19.9, 90.0, 1e4], dtype=kind, requires_grad=True)
    found = k3(d)
    found.sum().backward()
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert d.grad is not None
    assert d.grad.isfinite().all()
    exact = [math.exp(x) - x - 1 for x in d.tolist()[2:6]]
    assert found[2:6].tolist() == pytest.approx(exact, rel=1e-6, abs=2e-7)
    assert d.grad[-1] > 1e8, "still pulls"


@pytest.mark.parametrize("how", ["beam", "sample"])
def test_answers_are_items_and_the_same_in_any_split(how: Any, tmp_path: Path) -> None:
    some = material(tmp_path, grpo.Config(rollouts=how, group=4))
    source = data.rollouts(some).at(3)
    rows = np.array([9, 2, 5, 7])
    whole = source.answers(rows).leaf_BR
    assert np.array_equal(whole, np.concatenate([source.answers(part).leaf_BR for part in (rows[:1], rows[1:])]))
    assert np.array_equal(whole, source.answers(rows).leaf_BR)
    assert np.isin(whole, some.examples.catalogue.trie.leaf_of(torch.arange(ITEMS)).numpy()).all()
    if how == "beam":
        assert all(len(set(row)) == 4 for row in whole.tolist())
    else:
        assert not np.array_equal(whole, source.at(4).answers(rows).leaf_BR), "other samples in another epoch"
    batch = source.batch(rows)
    assert batch.extra["unique"].tolist() == [len(set(row)) / 4 for row in whole.tolist()]
    target = leaves()[source.prompts.targets()[rows]]
    first = data.items_of(some.examples.catalogue.trie, whole)
    assert batch.extra["right"].tolist() == (leaves()[first] == target[:, None]).tolist()


def test_a_batch_carries_weighted_rewards_and_the_log_probabilities_of_the_start(tmp_path: Path) -> None:
    config = grpo.Config(group=20, exact=2.0, rank=0.5, prefix=0.25, cf=0.125)
    table_II = torch.randn(ITEMS + 1, ITEMS, generator=torch.Generator().manual_seed(0))
    some = material(tmp_path, config, scorer=lambda history_BT: table_II[history_BT].sum(1))
    source, lm = data.rollouts(some), some.parallel.model
    rows = np.array([1, 6, 11])
    score_BI = torch.stack([table_II[history].sum(0) for history in source.prompts.items(rows)])
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.05)
    now = {name: value.clone() for name, value in lm.state_dict().items()}
    batch = source.batch(rows)
    assert all(torch.equal(now[name], value) for name, value in lm.state_dict().items())
    lm.load_state_dict(before)
    torch.testing.assert_close(batch.extra["token_reference"], batch.log_probs(lm).detach())
    lm.load_state_dict(now)
    items = data.items_of(some.examples.catalogue.trie, source.answers(rows).leaf_BR)
    discount = [1 / math.log2(place + 2) for place in range(20)]
    assert 0 < batch.extra["right"].sum() <= 3
    for row, target in enumerate(source.prompts.targets()[rows].tolist()):
        right = [leaves()[item] == leaves()[target] for item in items[row]]
        worth = []
        for place, item in enumerate(items[row].tolist()):
            ours, its = ([3 + which % 30 % 6, 20 + which % 30 // 6] for which in (item, target))
            same = 0 if ours[0] != its[0] else 1 if ours[1] != its[1] else 2
            ranked = 0.0 if right[place] or not any(right) else -discount[place] / sum(discount)
            liked = max(float(score_BI[row, other]) for other in range(ITEMS) if leaves()[other] == leaves()[item])
            worth.append(2.0 * right[place] + 0.5 * ranked + 0.25 * same / 2 + 0.125 * liked)
        assert batch.extra["reward"][row].tolist() == pytest.approx(worth, abs=1e-6)
        spread = np.std(worth, ddof=1) + 1e-4
        wanted = [(value - np.mean(worth)) / spread for value in worth]
        assert batch.extra["advantage"][row].tolist() == pytest.approx(wanted, abs=1e-5)


def test_more_answers_than_identifiers_are_refused() -> None:
    prompts = Histories.of(examples(), 3)
    with pytest.raises(UserError, match="only 30 identifiers"):
        data.check_group(grpo.Config(group=31), prompts)
    data.check_group(grpo.Config(group=30), prompts)
    data.check_group(grpo.Config(group=31, rollouts="sample"), prompts)
    for bad in ({"group": 1}, {"exact": 0.0}, {"rank": 1.0, "rollouts": "sample"}, {"beta_kl": -1.0}):
        with pytest.raises(ValueError, match="expected|reward"):
            grpo.Config(**bad)  # type: ignore[arg-type]


def test_the_reference_is_the_start_and_outlives_it(tmp_path: Path) -> None:
    """After steps the model has other weights, and the same again after the reference was in their place."""
    some = material(tmp_path, grpo.Config())
    start = [parameter.detach().clone() for parameter in some.parallel.model.parameters()]
    frozen = Frozen.at_start(some)
    with torch.no_grad():
        for parameter in some.parallel.model.parameters():
            parameter.mul_(1.1)
    moved = [parameter.detach().clone() for parameter in some.parallel.model.parameters()]
    for reference in (frozen, Frozen.at_start(some)):
        with reference.in_place():
            assert all(map(torch.equal, some.parallel.model.parameters(), start))
        assert all(map(torch.equal, some.parallel.model.parameters(), moved))


def thinking(tmp_path: Path, **options: Any) -> Any:
    config = grpo.Config(rollouts="sample", group=4, thoughts=5, **options)
    return data.rollouts(material(tmp_path, config, stream=False))


def test_thoughts_are_free_the_same_in_any_split_and_before_an_item(tmp_path: Path) -> None:
    source = thinking(tmp_path)
    rows, catalogue = np.array([9, 2, 5]), source.prompts.catalogue
    answers = source.answers(rows)
    parts = [source.answers(part) for part in (rows[:2], rows[2:])]
    assert np.array_equal(answers.leaf_BR, np.concatenate([part.leaf_BR for part in parts]))
    thoughts = [row[row >= 0].tolist() for row in answers.thought_BRT.reshape(12, -1)]
    assert thoughts == [row[row >= 0].tolist() for part in parts for row in part.thought_BRT.reshape(-1, part.thought_BRT.shape[2])]  # fmt: skip
    assert len(set(map(tuple, thoughts))) > 4
    assert {token for thought in thoughts for token in thought} - set(catalogue.trie.tokens().tolist()), (
        "not of the catalogue alone"
    )
    items = data.items_of(catalogue.trie, answers.leaf_BR).flatten()
    for tokens, thought, item in zip(source._tokens(answers).reshape(12, -1), thoughts, items, strict=True):
        assert tokens[tokens >= 0].tolist() == [*thought, *catalogue.token_ID[item][: catalogue.length_I[item]]]


def test_answers_are_drawn_behind_their_thoughts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, drawn, seen = thinking(tmp_path), data.sample, []

    def watched(model: Any, input_NS: torch.Tensor, mask_NS: torch.Tensor, *rest: Any, **named: Any) -> Any:
        seen.extend(row[kept > 0].tolist() for row, kept in zip(input_NS, mask_NS, strict=True))
        return drawn(model, input_NS, mask_NS, *rest, **named)

    monkeypatch.setattr(data, "sample", watched)
    rows = np.array([9, 2, 5])
    thoughts = source.answers(rows).thought_BRT
    for place, row in enumerate(rows):
        prompt = source.prompts.tokens(np.array([row]))[0].tolist()
        for answer in range(4):
            thought = thoughts[place, answer]
            assert seen[4 * place + answer] == [*prompt, *thought[thought >= 0].tolist()]


def test_without_its_thought_an_answer_has_another_score(tmp_path: Path) -> None:
    """And thoughts have a gradient of their own."""
    source = thinking(tmp_path)
    rows, lm = np.array([9, 2, 5]), source.material.parallel.model
    answers, batch = source.answers(rows), source.batch(rows)
    log_prob = batch.log_probs(lm)
    length = torch.from_numpy((answers.thought_BRT >= 0).sum(2))
    place = torch.arange(log_prob.shape[2])
    behind = (place >= length[:, :, None]) & (batch.index_BRT >= 0)
    silent = pack(
        *source.prompts.tokens(rows), source._tokens(answers._replace(thought_BRT=answers.thought_BRT[:, :, :0]))
    )
    with_thought, without = (log_prob * behind).sum(2), silent.log_probs(lm).sum(2)
    assert ((with_thought - without).abs() > 1e-3).all()
    given = log_prob.detach().requires_grad_()
    batch.extra["advantage"][:] = 1.0
    make_loss(grpo.Config())(given, batch).losses["policy"][0].backward()
    assert given.grad is not None
    assert (given.grad[(place < length[:, :, None])] < 0).all(), "each of its tokens is raised"


@torch.no_grad()
def test_ranking_thinks_first_by_the_likeliest_tokens() -> None:
    source = examples(stream=False)
    catalogue, model = source.catalogue, llama()
    history = np.array([[3, 8, -1], [11, 2, 7], [5, -1, -1]])
    ranker = Ranker(model, catalogue, replace(source.layout, thought=4), np.ones(ITEMS), beams=6)
    item, score = ranker.rank(history, 5)
    for row in range(3):
        ids = source.layout.prompts(catalogue, history[row : row + 1, : (history[row] >= 0).sum()])[0][0].tolist()
        for _ in range(4):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == catalogue.end:
                break
        leaf, wanted = beam_search(
            model, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long), catalogue.trie, beams=6
        )
        assert leaves()[item[row, 0]] == leaves()[data.items_of(catalogue.trie, leaf.numpy())[0, 0]]
        assert score[row, 0].item() == pytest.approx(wanted[0, 0].item(), abs=1e-4)
    plain = Ranker(model, catalogue, source.layout, np.ones(ITEMS), beams=6).rank(history, 5)
    assert not torch.allclose(plain[1], score, atol=1e-3)


def updated(some: Any, micro_batch: int | None, steps: int = 2, rate: float = 1e-2) -> Any:
    """(weights, means of the last step) after updates on the same rows."""
    some = replace(some, settings=replace(some.settings, micro_batch=micro_batch))
    source, options = data.rollouts(some), some.options
    updater = Updater(some.parallel, source, make_loss(options), grpo.weights(options), None, some.settings)
    for step in range(1, steps + 1):
        terms, _ = updater.update(np.arange(8), rate, step, logged=True)
    return {name: value.detach().clone() for name, value in some.parallel.model.named_parameters()}, terms.means()


@pytest.mark.parametrize("average", ["sequence", "token"])
def test_accumulation_makes_the_updates_of_one_batch(average: Any, tmp_path: Path) -> None:
    found = []
    how: Any = {"rollouts": "sample", "thoughts": 4} if average == "token" else {}
    for number, micro_batch in enumerate((None, 3)):
        some = material(tmp_path / str(number), grpo.Config(group=4, prefix=1.0, beta_kl=0.1, average=average, **how))
        some.parallel.model.double()
        found.append(updated(some, micro_batch)[0])
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("how", ["beam", "sample"])
def test_the_reward_rises(how: Any, tmp_path: Path) -> None:
    some = material(tmp_path, grpo.Config(rollouts=how, group=8, prefix=1.0))
    _, first = updated(some, None, steps=1, rate=0.0)
    _, last = updated(some, None, steps=40, rate=3e-3)
    assert last["reward"] > first["reward"] + 0.1, (first, last)
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert last["kl"] > 1e-3
    assert 0 < last["entropy"] < math.log(60)
