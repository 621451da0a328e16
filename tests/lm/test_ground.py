"""Grounding against plain loops in float64: distances, ties, duplicate titles, adjustment; and what embeds a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import llama
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli.lm import backbone, ground, tokenizer
from ilrec_cli.lm.adapters import Lora
from ilrec_cli.lm.ground import Titles


def brute_force(text: np.ndarray, vector_I: list[np.ndarray]) -> list[float]:
    """The distance of every item, number by number."""
    return [
        float(sum((float(a) - float(b)) ** 2 for a, b in zip(text, vector, strict=True))) ** 0.5 for vector in vector_I
    ]


def listed(score: list[float], k: int) -> list[int]:
    return sorted(range(len(score)), key=lambda item: (score[item], item))[:k]


def shared_rank(score: list[float], title_I: np.ndarray, target: int) -> int:
    """The best rank of an item with the target's title."""
    order = listed(score, len(score))
    return min(order.index(item) for item in range(len(score)) if title_I[item] == title_I[target])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), items=st.integers(1, 150), titles=st.integers(1, 40), width=st.integers(1, 5),
    coarse=st.booleans(), k=st.integers(1, 30),
)  # fmt: skip
def test_grounding_is_the_brute_force_ranking(
    seed: int, items: int, titles: int, width: int, coarse: bool, k: int
) -> None:
    """Coarse vectors are small whole numbers: titles of the same vector, and of the same distance, abound."""
    rng = np.random.default_rng(seed)
    draw: Any = (lambda *shape: rng.integers(-1, 2, shape)) if coarse else (lambda *shape: rng.normal(size=shape))
    vector_UD, text_BD = draw(titles, width).astype(np.float32), draw(3, width).astype(np.float32)
    title_I, target_B = rng.integers(0, titles, items), rng.integers(0, items, 3)
    space = Titles(torch.from_numpy(vector_UD), torch.from_numpy(title_I))
    distance_BI = space.distances(torch.from_numpy(text_BD))
    item_Bk, score_Bk = ground.nearest(distance_BI, k)
    rank_B = ground.title_ranks(distance_BI, torch.from_numpy(title_I), torch.from_numpy(target_B))
    for row in range(3):
        expected = brute_force(text_BD[row], [vector_UD[title] for title in title_I])
        assert item_Bk[row].tolist() == listed(expected, k)
        assert score_Bk[row].tolist() == pytest.approx([expected[item] for item in listed(expected, k)], rel=1e-12)
        assert int(rank_B[row]) == shared_rank(expected, title_I, int(target_B[row]))


def test_long_vectors_keep_the_digits_in_which_they_differ() -> None:
    """Last hidden states: of length 100, a thousandth apart. Products and norms in float32 would tie or swap them."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=64) * 12
    step_U = 1e-3 * rng.permutation(np.arange(1, 41))
    vector_UD = torch.from_numpy(base + step_U[:, None] * np.eye(64)[0]).float()
    text_1D = torch.from_numpy(base).float()[None]
    item_1k, _ = ground.nearest(Titles(vector_UD, torch.arange(40)).distances(text_1D), 40)
    assert item_1k[0].tolist() == np.argsort(step_U).tolist()
    careless = torch.cdist(text_1D, vector_UD, compute_mode="use_mm_for_euclid_dist")
    assert careless[0].argsort().tolist() != np.argsort(step_U).tolist(), "the shortcut is seen to fail here"


@pytest.mark.parametrize("per_row", [False, True], ids=["popularity", "cf"])
@pytest.mark.parametrize("gamma", [0.0, 0.37, 1.0, 40.0])
def test_adjusted_scores_follow_the_formula(per_row: bool, gamma: float) -> None:
    rng = np.random.default_rng(3)
    distance_BI, score_XI = rng.random((4, 30)) + 2, rng.normal(size=(4 if per_row else 1, 30))
    found = ground.adjusted(torch.from_numpy(distance_BI), ground.evidence(torch.from_numpy(score_XI)), gamma)
    for row in range(4):
        own = score_XI[row if per_row else 0]
        for item in range(30):
            distance = (distance_BI[row, item] - distance_BI[row].min()) / np.ptp(distance_BI[row])
            score = (own[item] - own.min()) / np.ptp(own)
            assert float(found[row, item]) == pytest.approx(distance / (1 + score) ** gamma, rel=1e-12)


def test_where_all_are_alike_nothing_is_divided_by_zero() -> None:
    same = torch.full((2, 5), 3.0, dtype=torch.float64)
    found = ground.adjusted(same, ground.evidence(same), 2.0)
    assert ground.nearest(found, 3)[0].tolist() == [[0, 1, 2]] * 2
    with pytest.raises(ValueError, match="NaN"):
        ground.nearest(same * torch.nan, 3)


TEXTS = ["Tent for two", "Tent", "", "Tent for three, and more", "Kettle"]


@pytest.mark.parametrize("adds_bos", [True, False], ids=["bos", "no-bos"])
def test_a_text_is_its_last_token_in_the_last_layer(adds_bos: bool) -> None:
    tok = tokenizer.train(TEXTS, 300, adds_bos=adds_bos)
    model = llama(len(tok))
    found = ground.last_states(model, tok, TEXTS, 2)
    for row, text in enumerate(TEXTS):
        ids = tok(text).input_ids
        if not ids:
            assert not found[row].any()
            continue
        alone = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(found[row], alone.detach(), rtol=1e-4, atol=1e-5)


def test_with_the_adapter_off_it_is_the_base_that_embeds() -> None:
    tok = tokenizer.train(TEXTS, 300, adds_bos=True)
    expected = ground.last_states(llama(len(tok)), tok, TEXTS, 8)
    opened = backbone.Backbone(llama(len(tok)), tok, "base")
    backbone.add_lora(opened, Lora(r=2, alpha=4, dropout=0.0, targets=("q_proj",)), [], 0)
    for name, parameter in opened.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    opened.model.eval()
    assert not torch.allclose(ground.last_states(opened.model, tok, TEXTS, 8), expected)
    with opened.model.disable_adapter():
        torch.testing.assert_close(ground.last_states(opened.model, tok, TEXTS, 8), expected)
