"""D3's step scores against loops in float64 over beams, children and items."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, llama
from searching import prompts
from torch import Tensor

from ilrec_cli.lm.decode import RowScores, beam_search
from ilrec_cli.lm.examples import Catalogue, Layout
from ilrec_cli.lm.guidance import FLOOR, Guide
from ilrec_cli.lm.rank import Ranker
from ilrec_cli.trie import ItemTrie

END = 1
HISTORY = torch.tensor([[3, 7, 9, -1], [5, -1, -1, -1], [1, 2, 3, 4]])
PROMPTS = torch.tensor([[2, 2, 5, 8], [2, 9, 4, 4], [7, 3, 5, 6]]), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [1] * 4])


class Scorer:
    """A collaborative model that is a table; it counts how often it is asked."""

    def __init__(self, items: int, spread: float = 3.0):
        self.table_HI = torch.from_numpy(np.random.default_rng(7).normal(size=(40, items)) * spread).float()
        self.calls = 0

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.table_HI[history_BT[:, 0]]


def steps_of(model: Any, row: int, path: list[int], paths: list[list[int]], normalize: str) -> list[float]:
    """log p_LM of every token of a path: one run of the model per token, sums over what `normalize` says."""
    ids, mask = PROMPTS[0][row], PROMPTS[1][row].bool()
    found = []
    for depth, token in enumerate(path):
        with torch.no_grad():
            logits = model(input_ids=torch.cat([ids[mask], torch.tensor(path[:depth], dtype=torch.long)])[None]).logits
        allowed = sorted({each[depth] for each in paths if each[:depth] == path[:depth]})
        kinds = {"vocab": range(logits.shape[2]), "ids": {each for path in paths for each in path}, "trie": allowed}
        total = sum(math.exp(float(logits[0, -1, each])) for each in kinds[normalize])
        found.append(float(logits[0, -1, token]) - math.log(total))
    return found


def d3_score(lm: list[float], path: list[int], paths: list[list[int]], prob: list[float], weight: float) -> float:
    """Sum over steps of a log p_LM + (1 - a) log p_CF, the latter summed over items below prefix and token."""
    total = 0.0
    for depth, token in enumerate(path):
        below = [item for item, each in enumerate(paths) if each[:depth] == path[:depth]]
        mass = sum(prob[item] for item in below if paths[item][depth] == token) / sum(prob[item] for item in below)
        total += weight * lm[depth] + (1 - weight) * math.log(max(mass, FLOOR))
    return total


@pytest.mark.parametrize("normalize", ["vocab", "ids", "trie"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_scores_equal_a_loop_in_float64(normalize: Any, weight: float) -> None:
    paths = brute_force_paths(np.random.default_rng(1), 25, range(3, 7), 4, END)
    model, trie, scorer = llama().double(), ItemTrie.build(paths), Scorer(25)
    leaf_BK, score_BK = beam_search(
        model, *PROMPTS, trie, beams=25, normalize=normalize, step_scores=Guide(scorer, weight).over(trie, HISTORY)
    )
    assert scorer.calls == 1
    for row in range(3):
        score = scorer.table_HI[HISTORY[row, 0]].double().numpy()
        prob = (np.exp(score) / np.exp(score).sum()).tolist()
        found = dict(zip(leaf_BK[row].tolist(), score_BK[row].tolist(), strict=True))
        for item, path in enumerate(paths):
            expected = d3_score(steps_of(model, row, path, paths, normalize), path, paths, prob, weight)
            assert found[trie.leaf_of([item]).item()] == pytest.approx(expected, abs=2e-5)


def test_beams_are_chosen_by_the_mixed_score() -> None:
    """A plain loop that keeps the K best prefixes of every step."""
    rng = np.random.default_rng(4)
    paths = [[*row, END] for row in rng.integers(3, 9, size=(60, 3)).tolist()]
    model, trie, scorer, weight, beams = llama(), ItemTrie.build(paths), Scorer(60), 0.5, 4
    leaf_BK, score_BK = beam_search(
        model, *PROMPTS, trie, beams=beams, step_scores=Guide(scorer, weight).over(trie, HISTORY)
    )
    for row in range(3):
        prob = scorer.table_HI[HISTORY[row, 0]].double().softmax(0).tolist()
        kept: list[tuple[float, list[int]]] = [(0.0, [])]
        for depth in range(4):
            longer = {tuple(path[: depth + 1]) for path in paths if path[:depth] in [prefix for _, prefix in kept]}
            scored = [
                (
                    d3_score(steps_of(model, row, list(prefix), paths, "vocab"), list(prefix), paths, prob, weight),
                    prefix,
                )
                for prefix in longer
            ]
            kept = [(score, list(prefix)) for score, prefix in sorted(scored, reverse=True)[:beams]]
        assert leaf_BK[row].tolist() == [trie.leaf_of([paths.index(path)]).item() for _, path in kept]
        assert score_BK[row].tolist() == pytest.approx([score for score, _ in kept], abs=2e-5)


def test_what_the_collaborative_model_rules_out_stays_possible() -> None:
    paths = [[3, END], [4, END], [5, 6, END], [5, 7, END]]
    trie, scorer = ItemTrie.build(paths), Scorer(4)
    scorer.table_HI[:] = torch.tensor([0.0, -500.0, -500.0, 1.0])
    _, score_BK = beam_search(llama(), *PROMPTS, trie, beams=4, step_scores=Guide(scorer, 0.5).over(trie, HISTORY))
    assert (score_BK > -60).all(), "half of log 1e-20 is -23"


def test_prompts_are_searched_apart_as_they_are_together() -> None:
    """Forty prompts of mixed length, grouped and left out when done, against all of them to the end."""
    rng = np.random.default_rng(5)
    paths = brute_force_paths(rng, 60, range(3, 9), 6, END)
    model, trie, (ids, mask) = llama(), ItemTrie.build(paths), prompts(rng, 40, longest=24)
    history = torch.arange(40)[:, None]
    guided = Guide(Scorer(60), 0.4).over(trie, history)
    sizes: list[int] = []

    class Watched(RowScores):
        def __init__(self, inner: RowScores):
            self.inner = inner

        def __call__(self, node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
            sizes.append(len(node_BK))
            return self.inner(node_BK, token_BKC, log_prob_BKC)

        def rows(self, row_B: Tensor) -> Watched:
            return Watched(self.inner.rows(row_B))

    expected = beam_search(model, ids, mask, trie, beams=4, step_scores=Watched(guided).__call__)
    assert set(sizes) == {40}, "a plain function knows rows alone"
    sizes.clear()
    found = beam_search(model, ids, mask, trie, beams=4, step_scores=Watched(guided))
    assert max(sizes) == 16, "groups of like length"
    assert min(sizes) < 8, "less those that are done"
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-4)
    assert torch.equal(found[0], expected[0])


def test_columns_kept_free_for_wider_nodes_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the masses are as wide as the widest node of the whole trie."""
    paths = brute_force_paths(np.random.default_rng(1), 25, range(3, 7), 4, END)
    model, trie, guide = llama(), ItemTrie.build(paths), Guide(Scorer(25), 0.4)
    expected = beam_search(model, *PROMPTS, trie, beams=5, step_scores=guide.over(trie, HISTORY))
    narrow = ItemTrie.child_mass

    def wide(self: ItemTrie, *arguments: Any, **more: Any) -> tuple[Tensor, Tensor]:
        return tuple(torch.nn.functional.pad(part, (0, 3), value=-1) for part in narrow(self, *arguments, **more))  # type: ignore[return-value]

    monkeypatch.setattr(ItemTrie, "child_mass", wide)
    found = beam_search(model, *PROMPTS, trie, beams=5, step_scores=guide.over(trie, HISTORY))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def ranker(guide: Guide | None, beams: int = 60) -> Ranker:
    rng = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(rng.permutation(6**3)[:60], (6, 6, 6)), 1) + 3
    catalogue = Catalogue.of_paths(codes.tolist(), END)
    layout = Layout(np.array([0]), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), True, 2)
    return Ranker(llama(layers=2), catalogue, layout, rng.integers(0, 9, size=60), beams=beams, guide=guide)


def test_the_ends_are_the_two_models() -> None:
    scorer = Scorer(60, spread=1.0)
    item_Bk, score_Bk = ranker(Guide(scorer, 0.0)).rank(HISTORY.numpy(), 60)
    log_prob_BI = scorer.table_HI[HISTORY[:, 0]].double().log_softmax(1)
    assert item_Bk.tolist() == log_prob_BI.argsort(1, descending=True).tolist()
    torch.testing.assert_close(score_Bk.double(), log_prob_BI.gather(1, item_Bk), rtol=0, atol=1e-5)
    alone, guided = (ranker(guide, 5).rank(HISTORY.numpy(), 5) for guide in (None, Guide(scorer, 1.0)))
    assert torch.equal(alone[0], guided[0])
    torch.testing.assert_close(alone[1], guided[1], rtol=0, atol=1e-5)


def test_hidden_items_stay_hidden_and_others_keep_their_scores() -> None:
    allowed_BI = torch.ones(3, 60, dtype=torch.bool)
    allowed_BI[:, ::2] = False
    guided = ranker(Guide(Scorer(60), 0.5))
    every, some = guided.rank(HISTORY.numpy(), 60), guided.rank(HISTORY.numpy(), 30, allowed_BI)
    for row in range(3):
        pairs = list(zip(every[0][row].tolist(), every[1][row].tolist(), strict=True))
        kept = [(item, score) for item, score in pairs if item % 2]
        assert some[0][row].tolist() == [item for item, _ in kept]
        assert some[1][row].tolist() == pytest.approx([score for _, score in kept], abs=1e-5)
