"""Ranking histories: search and exact scores, early exits, and that the two agree where the search is wide enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import llama

from ilrec_cli.errors import UserError
from ilrec_cli.lm.candidate_rank import CandidateRanker
from ilrec_cli.lm.examples import Catalogue, Layout
from ilrec_cli.lm.rank import Ranker

END = 1


def ranker(beams: int, positions: int = 2048, **settings: Any) -> Ranker:
    rng, model = np.random.default_rng(0), llama(layers=4, max_position_embeddings=positions)
    catalogue = Catalogue.of_paths(rng.integers(3, 9, size=(60, 3)).tolist(), END)
    layout = Layout(np.array([0]), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), True, 2)
    return Ranker(model, catalogue, layout, rng.integers(0, 9, size=60), beams=beams, **settings)


HISTORIES = np.array([[3, 7, 9, -1], [5, -1, -1, -1], [1, 2, 3, 4]])


@pytest.mark.parametrize("settings", [{}, {"normalize": "trie"}, {"length_penalty": 1.0}, {"exit_layer": 2}])
def test_a_wide_search_ranks_as_exact_scores_do(settings: dict[str, Any]) -> None:
    wide = ranker(60, **settings)
    searched, exact = wide.rank(HISTORIES, 20), wide.exact(HISTORIES, 20)
    torch.testing.assert_close(searched[1], exact[1], rtol=0, atol=1e-4)
    assert (searched[0] == exact[0]).float().mean() > 0.95, "but for scores that are nearly equal"
    assert (exact[0] >= 0).all()


def test_an_exit_layer_ranks_with_fewer_blocks() -> None:
    short, whole = ranker(10, exit_layer=2), ranker(10)
    assert len(short.model.model.layers) == 2
    assert not torch.equal(short.rank(HISTORIES, 10)[0], whole.rank(HISTORIES, 10)[0])
    last = ranker(10, exit_layer=4).rank(HISTORIES, 10)
    assert torch.equal(last[0], whole.rank(HISTORIES, 10)[0])


def test_what_the_model_has_no_positions_for_is_refused() -> None:
    needed = 1 + 4 * 4 + 3  # start, four items with their end tokens, an item but for its end token
    fits, short = (ranker(10, positions) for positions in (needed, needed - 1))
    asked: list[Callable[[Ranker], object]] = [
        lambda each: each.rank(HISTORIES, 5),
        lambda each: each.exact(HISTORIES, 5),
        lambda each: each.write(HISTORIES, beams=2, max_new_tokens=4, end_token=END),
        lambda each: each.check(HISTORIES[2]),
    ]
    for ask in asked:
        ask(fits)
        with pytest.raises(UserError, match=f"reads {needed - 1} tokens, the longest of these prompts has {needed} "):
            ask(short)
    with pytest.raises(UserError, match="Lower --text-tokens"):
        asked[2](short)
    with pytest.raises(UserError, match="^row 3: the model reads"):
        short.check(HISTORIES[2], "row 3: ")
    short.rank(HISTORIES[:2], 5)
    short.check(HISTORIES[2][:3])


def test_candidates_that_the_model_has_no_positions_for_are_refused() -> None:
    of = ranker(10).catalogue
    needed = 7 + 3
    fits, short = (
        CandidateRanker(
            llama(max_position_embeddings=positions), of,
            lambda *_: (torch.full((2, 7), 3), torch.ones(2, 7, dtype=torch.long)), np.ones(60),
        )
        for positions in (needed, needed - 1)
    )  # fmt: skip
    listed = np.array([[1, 2, 3], [4, 5, 6]])
    fits.rank(HISTORIES[:2], listed, mean=False)
    with pytest.raises(
        UserError, match=f"reads {needed - 1} tokens.* has {needed} with its answer.*fewer --candidates"
    ):
        short.rank(HISTORIES[:2], listed, mean=False)


def test_places_are_found_without_a_table_of_items_by_leaves() -> None:
    """Lists of 40,000 from as many leaves: every pair compared would be 1.6 billion cells."""
    rng = np.random.default_rng(0)
    own = ranker(5)
    leaf_BK = torch.full((1, 40_000), -1)
    leaf_BK[0, : own.trie.leaves] = torch.from_numpy(
        rng.permutation(own.trie.leaf_of(torch.arange(60)).unique().numpy())
    )
    score_BK = torch.linspace(0, -1, 40_000)[None]
    with torch.profiler.profile(profile_memory=True) as profile:
        item_Bk, score_Bk = own._items(leaf_BK, score_BK, 40_000)
    assert max(event.self_cpu_memory_usage for event in profile.events()) < 2**26
    for item, score in zip(item_Bk[0, :60].tolist(), score_Bk[0, :60].tolist(), strict=True):
        place = leaf_BK[0].tolist().index(own.trie.leaf_of(torch.tensor([item])).item())
        assert score == score_BK[0, place].item()
    assert (item_Bk[0, 60:] == -1).all()
    assert torch.isneginf(score_Bk[0, 60:]).all()
