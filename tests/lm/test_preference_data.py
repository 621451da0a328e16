"""What pairs are made of: negatives that are never the target, histories, references, smoothing by an oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import family, llama
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, training_windows
from ilrec_cli.lm.examples import Catalogue, Examples, Layout
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.preference import Histories, Pairs, scored
from ilrec_cli.lm.sharding import Parallel
from ilrec_cli.methods import _negatives, _pairs, dpo, rosepo, s_dpo, sprec
from ilrec_cli.methods.rosepo import data as rosepo_data
from ilrec_cli.methods.sprec import data as sprec_data
from ilrec_cli.settings import Train

END, ITEMS = 1, 40
SETTINGS = Train(dataset="toy", epochs=1, batch_size=8)


def catalogue() -> Catalogue:
    """Items 30 to 39 have the identifiers of items 0 to 9."""
    return Catalogue.of_paths([[3 + item % 30 % 6, 20 + item % 30 // 6] for item in range(ITEMS)], END)


def leaves() -> np.ndarray:
    return np.arange(ITEMS) % 30


def examples(*, stream: bool = True, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 9, size=12)
    offsets = np.concatenate([[0], lengths.cumsum()])
    items = np.concatenate([rng.permutation(ITEMS)[:length] for length in lengths])
    sequences, empty = Sequences(items, offsets), np.zeros(0, dtype=np.int64)
    if stream:
        layout = Layout(np.array([0]), empty, empty, True, 2)
        return Examples(sequences, training_windows(sequences, lengths - 2, 3), catalogue(), layout)
    user = np.repeat(np.arange(12), lengths - 3)
    end = np.concatenate([np.arange(1, length - 2) for length in lengths])
    layout = Layout(np.array([0, 50]), np.array([51]), np.array([52, 53]), False, 2)
    return Examples.per_target(sequences, user, end, 3, catalogue(), layout)


def material(folder: Path, options: Any, *, stream: bool = True, **more: Any) -> Material:
    parallel = Parallel(SupervisedLM(llama()), Accelerator(cpu=True))
    popularity = np.bincount(examples().sequences.items, minlength=ITEMS)
    about: dict[str, Any] = {"max_history": 3} | more
    return Material(SETTINGS, options, examples(stream=stream), popularity, parallel, folder / "2", 1, **about)


@pytest.mark.parametrize("stream", [True, False])
def test_every_target_has_a_row_with_the_items_before_it(stream: bool) -> None:
    source = examples(stream=stream)
    prompts = Histories.of(source, 3)
    sequences, wanted = source.sequences, []
    for user in range(12):
        own = sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]].tolist()
        wanted += [(user, own[max(0, end - 3) : end], own[end]) for end in range(1, len(own) - 2)]
    shown = [[item for item in row if item >= 0] for row in prompts.items(np.arange(len(prompts))).tolist()]
    assert list(zip(prompts.users().tolist(), shown, prompts.targets().tolist(), strict=True)) == wanted
    rows = np.array([4, 0, 7])
    token_K, length_B = prompts.tokens(rows)
    input_BS, mask_BS = source.layout.prompts(source.catalogue, prompts.items(rows))
    parts = np.split(token_K, length_B.cumsum()[:-1])
    assert [part.tolist() for part in parts] == [
        row[kept > 0].tolist() for row, kept in zip(input_BS, mask_BS, strict=True)
    ]


Draw = Callable[[Histories, np.random.Generator], np.ndarray]
VECTORS = np.random.default_rng(5).normal(size=(ITEMS, 4))
DRAWS: dict[str, Draw] = {
    "random": lambda prompts, rng: _negatives.drawn(prompts, 5, rng),
    "popular": lambda prompts, rng: _negatives.drawn(prompts, 2, rng, weight_I=np.arange(ITEMS) ** 3.0),
    "similar": lambda prompts, rng: _negatives.similar(prompts, VECTORS, 3, 2, rng),
}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), name=st.sampled_from(sorted(DRAWS)))
def test_negatives_are_never_the_target_nor_of_the_user_by_identifier(seed: int, name: str) -> None:
    prompts = Histories.of(examples(seed=seed), 3)
    item_EJ = DRAWS[name](prompts, np.random.default_rng(seed))
    again = DRAWS[name](prompts, np.random.default_rng(seed))
    assert np.array_equal(item_EJ, again)
    user, item = prompts.seen()
    for row, (own, target) in enumerate(zip(prompts.users(), prompts.targets(), strict=True)):
        found = leaves()[item_EJ[row]]
        assert len(set(found)) == len(found), "distinct"
        assert leaves()[target] not in found
        assert not set(found) & set(leaves()[item[user == own]])


def test_held_out_items_can_be_negatives() -> None:
    """Leaving them out would tell the model what will be asked for."""
    prompts = Histories.of(examples(), 3)
    sequences = prompts.examples.sequences
    drawn = np.concatenate([_negatives.drawn(prompts, 5, np.random.default_rng(seed)) for seed in range(40)], 1)
    for row, user in enumerate(prompts.users()):
        held_out = sequences.items[sequences.offsets[user + 1] - 2 : sequences.offsets[user + 1]]
        user_, item = prompts.seen()
        if not set(leaves()[held_out]) & set(leaves()[item[user_ == user]]):
            assert set(leaves()[held_out]) <= set(leaves()[drawn[row]])


def test_similar_items_are_the_nearest_ones_and_popular_ones_come_more_often() -> None:
    prompts = Histories.of(examples(), 3)
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    found = _negatives.similar(prompts, VECTORS, 3, 3, np.random.default_rng(0))
    user, item = prompts.seen()
    for row, (own, target) in enumerate(zip(prompts.users(), prompts.targets(), strict=True)):
        out = set(leaves()[item[user == own]])
        nearest: list[int] = []
        for other in np.argsort(-(unit @ unit[target]), kind="stable"):
            if leaves()[other] not in {*out, *leaves()[nearest]} and len(nearest) < 3:
                nearest.append(int(other))
        assert sorted(found[row]) == sorted(nearest)
    weight = np.where(np.arange(ITEMS) < 20, 1.0, 9.0)
    drawn = _negatives.drawn(prompts, 1, np.random.default_rng(0), weight_I=weight)
    assert (drawn >= 20).mean() > 0.7


def test_negatives_come_from_a_rows_own_candidates_where_it_has_some(tmp_path: Path) -> None:
    prompts = Histories.of(examples(), 3)
    rng = np.random.default_rng(3)
    allowed = np.stack([rng.permutation(ITEMS)[:20] for _ in range(len(prompts))])
    allowed[:, 0], allowed[:, 19] = prompts.targets(), -1
    some, prompts = material(tmp_path, rosepo.Config()), replace(prompts, allowed=allowed)
    for found in (
        _negatives.drawn(prompts, 3, rng),
        _negatives.drawn(prompts, 3, rng, weight_I=np.ones(ITEMS)),
        _negatives.similar(prompts, VECTORS, 4, 3, rng),
        _negatives.own_mistakes(some, prompts, 2, 4, 3, rng),
    ):
        for row in range(len(prompts)):
            assert set(found[row]) <= set(allowed[row, :19])
            assert leaves()[prompts.targets()[row]] not in leaves()[found[row]]
    for count, rows, message in (
        (25, prompts, "25 negatives asked for, but a row has only"),
        (29, replace(prompts, allowed=None), "29 negatives asked for, but a user leaves only"),
    ):
        for refused in (
            _negatives.drawn,
            lambda rows, count, _: _negatives.check_random(dpo.Config(negatives=count), rows),
        ):
            with pytest.raises(UserError, match=message):
                refused(rows, count, rng)
        _negatives.check_random(dpo.Config(negatives=3), rows)


def test_own_mistakes_are_the_models_best_wrong_answers(tmp_path: Path) -> None:
    some = material(tmp_path, sprec.Config(), stream=False)
    prompts = Histories.of(some.examples, 3)
    every = Pairs(prompts, np.tile(np.arange(30), (len(prompts), 1)))
    score_EI = scored(some, every)
    found = _negatives.own_mistakes(some, prompts, 30, 1, 1, np.random.default_rng(0))[:, 0]
    user, item = prompts.seen()
    for row, (own, target) in enumerate(zip(prompts.users(), prompts.targets(), strict=True)):
        out = set(leaves()[item[user == own]]) | {leaves()[target]}
        wanted = next(item for item in np.argsort(-score_EI[row]) if item not in out)
        assert leaves()[found[row]] == wanted
    assert some.cost.since["generated"] == 30 * len(prompts)


def test_a_model_without_branches_finds_its_mistakes_among_candidates_too(tmp_path: Path) -> None:
    """Bloom heeds no mask of branches: its scores are those of sequences one by one."""
    parallel = Parallel(SupervisedLM(family("Bloom")), Accelerator(cpu=True))
    some = replace(material(tmp_path, sprec.Config(), stream=False), parallel=parallel)
    prompts = Histories.of(some.examples, 3)
    allowed = np.stack([np.random.default_rng(row).permutation(30)[:12] for row in range(len(prompts))])
    allowed[:, 0] = prompts.targets() % 30
    score_EM = scored(some, Pairs(prompts, allowed, branched=False))
    found = _negatives.own_mistakes(some, replace(prompts, allowed=allowed), 2, 1, 1, np.random.default_rng(0))[:, 0]
    user, item = prompts.seen()
    for row, (own, target) in enumerate(zip(prompts.users(), prompts.targets(), strict=True)):
        out = set(leaves()[item[user == own]]) | {leaves()[target]}
        ranked = allowed[row][np.argsort(-score_EM[row], kind="stable")]
        assert found[row] == next(item for item in ranked if item not in out)


@pytest.mark.parametrize("stream", [True, False])
def test_the_reference_is_the_model_as_the_phase_begins_item_by_item(stream: bool, tmp_path: Path) -> None:
    some = material(tmp_path, s_dpo.Config(negatives=3), stream=stream)
    source = _pairs.random_pairs(some)
    model, paths = some.parallel.model.backbone, some.examples.catalogue
    assert source.item_ER.shape == (len(source), 4)
    assert np.array_equal(source.item_ER[:, 0], Histories.of(some.examples, 3).targets())
    for row in (0, 5, len(source) - 1):
        prompt = source.prompts.tokens(np.array([row]))[0].tolist()
        for place, item in enumerate(source.item_ER[row]):
            path = paths.token_ID[item][: paths.length_I[item]].tolist()
            with torch.no_grad():
                log_prob = model(input_ids=torch.tensor([prompt + path])).logits[0].log_softmax(-1)
            total = sum(log_prob[len(prompt) + depth - 1, token].item() for depth, token in enumerate(path))
            assert source.extra["reference"][row, place] == pytest.approx(total, abs=1e-4)
    batch = source.batch(np.arange(len(source)))
    policy = batch.log_probs(some.parallel.model).sum(2)
    torch.testing.assert_close(policy, batch.extra["reference"], rtol=0, atol=1e-4, msg="margins begin at zero")
    with torch.no_grad():
        next(some.parallel.model.parameters()).add_(1)
    kept = _pairs.random_pairs(some)
    assert np.array_equal(kept.extra["reference"], source.extra["reference"]), "of the start, when resumed too"
    assert np.array_equal(kept.item_ER, source.item_ER)


def test_references_are_made_without_dropout(tmp_path: Path) -> None:
    parallel = Parallel(SupervisedLM(llama(), dropout=0.5), Accelerator(cpu=True))
    parallel.model.train()  # as it is left by the phase before
    source = _pairs.random_pairs(replace(material(tmp_path, s_dpo.Config(negatives=3)), parallel=parallel))
    policy = source.batch(np.arange(len(source))).log_probs(SupervisedLM(llama())).sum(2)
    torch.testing.assert_close(torch.from_numpy(source.extra["reference"]), policy.detach(), rtol=0, atol=1e-4)


def test_of_candidates_that_are_all_the_users_own_the_target_is_still_none(tmp_path: Path) -> None:
    """Nothing fresh to choose from: an item of the user's, but not the target's identifier."""
    some = material(tmp_path, sprec.Config())
    prompts = Histories.of(some.examples, 3)
    user, item = prompts.seen()
    allowed = np.tile(prompts.targets()[:, None], (1, 3))
    for row, (each, target) in enumerate(zip(prompts.users(), prompts.targets(), strict=True)):
        others = item[(user == each) & (leaves()[item] != leaves()[target])]
        allowed[row, 2] = others[0] if len(others) else (target + 1) % 30
    found = _negatives.own_mistakes(some, replace(prompts, allowed=allowed), 2, 9, 1, np.random.default_rng(0))
    assert np.array_equal(found[:, 0], allowed[:, 2])


def test_the_oracles_smoothing_is_capped_and_by_hand(tmp_path: Path) -> None:
    def scores(history_BT: torch.Tensor) -> torch.Tensor:
        assert history_BT.shape[1] <= 3
        return history_BT.clamp(min=0).sum(1, keepdim=True) * 0.01 + torch.arange(ITEMS) * 0.1

    some = material(tmp_path, rosepo.Config(), scorer=scores)
    source = rosepo_data.pairs(some)
    chosen, rejected = source.item_ER.T
    wanted = np.minimum(1 / (1 + np.exp(0.1 * (chosen - rejected))), 0.45)
    np.testing.assert_allclose(source.extra["smoothing"][:, 0], wanted, rtol=1e-6)
    assert (wanted == 0.45).any()
    assert (wanted < 0.45).any()


@pytest.mark.parametrize("rejected", ["semantic", "popularity"])
def test_rosepos_other_negatives_have_no_oracle_if_it_is_not_asked_for(rejected: Any, tmp_path: Path) -> None:
    some = material(tmp_path, rosepo.Config(rejected=rejected, smoothing="constant"))
    source = rosepo_data.pairs(some)
    assert list(source.extra) == ["reference"]
    assert (leaves()[source.item_ER[:, 0]] != leaves()[source.item_ER[:, 1]]).all()


def test_sprecs_negatives_are_of_the_policy_before_the_fine_tuning(tmp_path: Path) -> None:
    before = material(tmp_path, sprec.Config())
    prompts = Histories.of(before.examples, 3)
    recommended = _negatives.own_mistakes(before, prompts, 2, 1, 1, np.random.default_rng(0))
    assert sprec_data.generated(before) is before.examples
    with torch.no_grad():
        for weight in before.parallel.model.parameters():
            weight.mul_(-0.5)
    after = replace(before, folder=tmp_path / "3", phase=2)
    other = _negatives.own_mistakes(after, prompts, 2, 1, 1, np.random.default_rng(0))
    assert not np.array_equal(other, recommended), "else the test shows nothing"
    source = sprec_data.pairs(after)
    assert np.array_equal(source.item_ER[:, 1:], recommended)
    policy = source.batch(np.arange(len(source))).log_probs(after.parallel.model).sum(2).detach().numpy()
    np.testing.assert_allclose(source.extra["reference"], policy, atol=1e-4)


def test_options_that_make_no_sense_are_refused() -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (dpo.Config, {"smoothing": 0.5}, "smoothing is 0.5"), (s_dpo.Config, {"negatives": 0}, "negatives is 0"),
        (rosepo.Config, {"cap": 0.5}, "cap is 0.5"), (rosepo.Config, {"beams": 1}, "beams is 1"),
        (sprec.Config, {"beta": 0.0}, "beta is 0.0"), (sprec.Config, {"iterations": 0}, "iterations is 0"),
    ]  # fmt: skip
    for config, values, message in wrong:
        with pytest.raises(ValueError, match=message):
            config(**values)
