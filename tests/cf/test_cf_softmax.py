"""The one-pass softmax loss against autograd in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ilrec_cli.cf import _softmax


@pytest.mark.parametrize("onednn", [False, _softmax.ONEDNN])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("chunk", [1, 31, 100, 10**6])
def test_loss_and_gradients_are_autograds(onednn: bool, biased: bool, chunk: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(_softmax, "ONEDNN", onednn)
    monkeypatch.setattr(_softmax, "CHUNK_SCORES", chunk)
    generator = torch.Generator().manual_seed(chunk)
    parts = [3 * torch.randn(*shape, generator=generator) for shape in ((17, 6), (30, 6), (30,))]
    target = torch.randint(30, (17,), generator=generator)
    ours = [part.clone().requires_grad_() for part in parts]
    exact = [part.double().requires_grad_() for part in parts]
    found = _softmax.softmax_loss(ours[0], target, ours[1], ours[2] if biased else None)
    wanted = F.cross_entropy(F.linear(exact[0], exact[1], exact[2] if biased else None), target)
    (2.5 * found).backward()
    (2.5 * wanted).backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    for one, other in zip(ours[: 2 + biased], exact, strict=False):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-6)


def test_the_same_twice_and_large_scores_stay_finite() -> None:
    hidden, item = 100 * torch.randn(5, 4), 100 * torch.randn(9, 4)
    one, two = (_softmax.softmax_loss(hidden, torch.arange(5), item) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.isfinite(one)


@pytest.mark.parametrize("grad", [False, True])
def test_item_scores_are_the_product_with_or_without_gradients(grad: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, item, bias = (torch.randn(*shape, generator=generator) for shape in ((5, 4), (9, 4), (9,)))
    found = _softmax.item_scores(hidden, item.requires_grad_(grad), bias)
    torch.testing.assert_close(found.double(), hidden.double() @ item.double().T + bias, rtol=1e-5, atol=1e-6)
    assert found.requires_grad == grad
