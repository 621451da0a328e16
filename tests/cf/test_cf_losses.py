"""Losses over items against loops in float64 with given negatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ilrec_cli.cf._losses import drawn_scores, gbce, item_loss, sampled_softmax
from ilrec_cli.cf._settings import ItemLoss

PLACES, WIDTH, ITEMS = 7, 5, 11
DRAWN = [0, 3, 3, 9, 10, 4]


def world(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(PLACES, WIDTH, generator=generator)
    item = torch.randn(ITEMS, WIDTH, generator=generator)
    bias = torch.randn(ITEMS, generator=generator)
    return hidden, torch.tensor([3, 0, 5, 10, 3, 7, 4]), item, bias


def score(place: int, item: int, biased: bool) -> float:
    hidden, _, items, bias = (part.double().numpy() for part in world())
    return float(sum(hidden[place, d] * items[item, d] for d in range(WIDTH)) + biased * bias[item])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("biased", [False, True])
def test_softmax_is_cross_entropy_over_every_item(biased: bool) -> None:
    hidden, target, item, bias = world()
    expected = np.mean([
        math.log(sum(math.exp(score(n, i, biased)) for i in range(ITEMS))) - score(n, int(t), biased)
        for n, t in enumerate(target)
    ])  # fmt: skip
    found = item_loss(ItemLoss(), hidden, target, item, bias if biased else None)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("biased", [False, True])
def test_sampled_softmax_counts_each_negative_for_its_share_of_the_others(biased: bool) -> None:
    hidden, target, item, bias = world()
    losses = []
    for n, t in enumerate(target.tolist()):
        negatives = [i for i in DRAWN if i != t]
        others = sum(math.exp(score(n, i, biased)) for i in negatives) * (ITEMS - 1) / len(negatives)
        losses.append(math.log(math.exp(score(n, t, biased)) + others) - score(n, t, biased))
    parts = drawn_scores(hidden, target, torch.tensor(DRAWN), item, bias if biased else None)
    assert sampled_softmax(*parts, ITEMS).item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce_is_its_formula(t: float) -> None:
    hidden, target, item, _ = world()
    rate = len(DRAWN) / (ITEMS - 1)
    beta = rate * (t * (1 - 1 / rate) + 1 / rate)
    losses = []
    for n, y in enumerate(target.tolist()):
        negatives = sum(math.log(1 - sigmoid(score(n, i, False))) for i in DRAWN if i != y)
        losses.append(-(beta * math.log(sigmoid(score(n, y, False))) + negatives) / (len(DRAWN) + 1))
    parts = drawn_scores(hidden, target, torch.tensor(DRAWN), item)
    assert gbce(*parts, ITEMS, t).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_gbce_without_calibration_is_binary_cross_entropy_and_with_all_of_it_weighs_positives_by_the_rate() -> None:
    positive, negative = torch.tensor([0.3]), torch.tensor([[-math.inf, -math.inf]])
    alone = -math.log(sigmoid(0.3)) / 3
    assert gbce(positive, negative, 21, 0.0).item() == pytest.approx(alone, rel=1e-6)
    assert gbce(positive, negative, 21, 1.0).item() == pytest.approx(0.1 * alone, rel=1e-5)


def test_the_sampled_sum_is_unbiased() -> None:
    """Over many draws, exp(loss) averages to the full softmax's: the ratio of all exponentials to the target's."""
    hidden, target, item, _ = world()
    generator = torch.Generator().manual_seed(1)
    ratios = []
    for _ in range(4000):
        drawn = torch.randint(ITEMS, (8,), generator=generator)
        positive, negative = drawn_scores(hidden[:1], target[:1], drawn, item)
        ratios.append(sampled_softmax(positive, negative, ITEMS).double().exp().item())
    full = item_loss(ItemLoss(), hidden[:1], target[:1], item).exp().item()
    error = np.std(ratios) / len(ratios) ** 0.5
    assert abs(np.mean(ratios) - full) < 4 * error
    assert error < 0.03 * full


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_a_step_whose_negatives_are_all_the_target_is_finite(loss: str) -> None:
    hidden, _, item, _ = world()
    item = item[:2].clone().requires_grad_()
    for seed in range(20):
        torch.manual_seed(seed)
        config = ItemLoss(loss=loss, n_negatives=1)  # type: ignore[arg-type]
        found = item_loss(config, hidden, torch.zeros(PLACES, dtype=torch.long), item)
        found.backward()
        assert torch.isfinite(found)
        assert item.grad is not None
        assert torch.isfinite(item.grad).all()


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_memory_does_not_grow_with_the_catalogue(loss: str) -> None:
    """No tensor of a step but the table of items and its gradient has a place for every item."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, Tensor))
            return out

    items, places, width, drawn = 5000, 40, 4, 6
    item = torch.randn(items, width, requires_grad=True)
    hidden, target = torch.randn(places, width), torch.arange(places)
    with Watch():
        item_loss(ItemLoss(loss=loss, n_negatives=drawn), hidden, target, item).backward()  # type: ignore[arg-type]
    assert max(sizes) == items * width


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="n_negatives is 0"):
        ItemLoss(n_negatives=0)
    with pytest.raises(ValueError, match="gbce_t is 2"):
        ItemLoss(gbce_t=2)
