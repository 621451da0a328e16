"""Ranking histories: search and exact scores, early exits, and that the two agree where the search is wide enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import llama

from ilrec_cli.lm.examples import Catalogue, Layout
from ilrec_cli.lm.rank import Ranker

END = 1


def ranker(beams: int, **settings: Any) -> Ranker:
    rng = np.random.default_rng(0)
    catalogue = Catalogue.of_paths(rng.integers(3, 9, size=(60, 3)).tolist(), END)
    layout = Layout(np.array([0]), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), True, 2)
    return Ranker(llama(layers=4), catalogue, layout, rng.integers(0, 9, size=60), beams=beams, **settings)


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
