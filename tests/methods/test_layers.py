"""Candidate layers: the paper's rows, and what does not exist."""

from __future__ import annotations

import pytest

from ilrec_cli.errors import UserError
from ilrec_cli.methods.ilrec.layers import resolve_layers


@pytest.mark.parametrize(
    ("spec", "depth", "layers"),
    [
        ("auto", 32, (29, 30, 31)),  # the paper's default on Llama-3.1-8B: 31-29
        ("auto", 28, (25, 26, 27)),
        ("auto", 16, (14, 15)),
        ("auto", 4, (3,)),
        ("consecutive:5", 32, (27, 28, 29, 30, 31)),
        ("-6,-7,-8", 32, (24, 25, 26)),  # Table 8, medium
        ("-11,-12,-13", 32, (19, 20, 21)),  # Table 8, shallow
        ("-1", 32, (31,)),
    ],
)
def test_layers(spec: str, depth: int, layers: tuple[int, ...]) -> None:
    assert resolve_layers(spec, depth) == layers


def test_random_layers_are_drawn_once_from_the_seed() -> None:
    drawn = {resolve_layers("random:3:-1:-8", 32, seed) for seed in range(40)}
    assert len(drawn) > 5
    assert all(len(set(layers)) == 3 and layers[0] >= 24 and layers[-1] <= 31 for layers in drawn)
    assert resolve_layers("random:3:-1:-8", 32, 7) == resolve_layers("random:3:-1:-8", 32, 7)


@pytest.mark.parametrize(
    "spec", ["consecutive:4", "-4", "0", "-1,-1", "1", "consecutive:0", "random:9:-1:-8", "last", "consecutive:x", ""]
)
def test_layers_that_do_not_exist_are_refused(spec: str) -> None:
    with pytest.raises(UserError, match="layers = "):
        resolve_layers(spec, 4)


def test_a_random_range_is_refused_whatever_the_seed_draws() -> None:
    for seed in range(20):
        with pytest.raises(UserError, match="the model has 8 layers, so offsets lie between -1 and -7; got -1, -8"):
            resolve_layers("random:1:-1:-8", 8, seed)
