"""Hostile values of every option: one line, or a model that is built at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.cf._common import Facts
from ilrec_cli.errors import UserError
from ilrec_cli.settings import TrainCf
from ilrec_cli.stages import _cf

HOSTILE: list[Any] = ["-1", "0", "nan", "inf", "-inf", "1e30", str(10**20), "²", "", "1,2", None, [], {}, True,
                      -1, 0, math.nan, math.inf, 1e30, 1e-30, 10**9, 10**20]  # fmt: skip
FACTS = Facts(users=5, items=7, max_history=4, popularity_I=torch.ones(7))
MOST_PARAMETERS = 10**7  # of a model over seven items


def every_option() -> Iterator[tuple[str, str]]:
    for name in plugins.names("cf"):
        for field in configs.fields(plugins.load("cf", name).Config):
            yield name, field.name


def refusal(make: Callable[[], object]) -> str | None:
    """The line that refuses, or none."""
    try:
        make()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("name", "option"), list(every_option()))
def test_a_hostile_option_is_refused_by_a_line_or_means_a_model(name: str, option: str) -> None:
    refused = 0
    for value in HOSTILE:
        line = refusal(lambda value=value: _cf.options(name, {option: value}))  # type: ignore[misc]
        if line is not None:
            refused += 1
            assert option in line
            assert "\n" not in line
            continue
        chosen = _cf.options(name, {option: value})
        model = _cf.new_model(name, chosen, FACTS, 0, torch.device("cpu"))
        assert sum(parameter.numel() for parameter in model.parameters()) < MOST_PARAMETERS
        assert torch.isfinite(model.eval().scores(torch.tensor([[1, 2]]))).all()
    assert refused >= 10


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(TrainCf)])
def test_a_hostile_setting_is_refused_by_a_line_or_taken(field: str) -> None:
    for value in HOSTILE:
        values = {"dataset": "toy", field: value}
        line = refusal(lambda values=values: configs.build(TrainCf, values, "ilrec train-cf"))  # type: ignore[misc]
        assert line is None or "\n" not in line


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--model", "sasrec", "-o", "initializer_range=-1"), "initializer_range is -1.0, expected more than 0"),
        (("--model", "bpr", "-o", "n_negatives=2000000000"), "n_negatives is 2000000000, expected at most 1,024"),
        (("--model", "sasrec", "-o", "n_negatives=2000000000"), "n_negatives is 2000000000, expected at most 65,536"),
        (("--model", "random", "-o", f"seed={10**20}"), "seed is 100000000000000000000, expected at most 2,147,483,647"),
        (("--model", "popularity", "--seeds", "0,1"), "popularity is not trained"),
        (("--model", "random", "--seeds", "0,1"), "-o seed=N"),
        (("--model", "sasrec", "--seed", "7", "--seeds", "0,1"), "--seed 7 plays no part beside --seeds"),
        (("--model", "random", "--seed", "7"), "--seed 7: random is not trained; its order is given by -o seed=7"),
    ],
)  # fmt: skip
def test_the_command_refuses_before_it_writes(
    world: Path, ilrec: Callable[..., Finished], more: tuple[str, ...], line: str
) -> None:
    there = sorted((world / "toy" / "cf").iterdir())
    assert line in ilrec("train-cf", "--dataset", "toy", "--work", world, "--name", "hostile", *more).one_line()
    assert sorted((world / "toy" / "cf").iterdir()) == there


def test_hostile_sizes_of_a_step_do_not_break_batches() -> None:
    """A batch of more sequences than there are, for ever so many epochs, is one batch."""
    import numpy as np

    from ilrec_cli.batching import epoch_batches, steps_per_epoch

    assert steps_per_epoch(5, 10**20) == 1
    (rows,) = epoch_batches(np.arange(5), 10**20, 0, 1)
    assert sorted(rows) == list(range(5))


def test_signs_that_only_look_like_numbers_are_refused(world: Path, ilrec: Callable[..., Finished]) -> None:
    """`"²".isdigit()` is true and `int("²")` raises."""
    from ilrec_cli.lm.layer_probe import resolve
    from ilrec_cli.settings import Evaluate

    base = ["--dataset", "toy", "--work", world]
    assert "expected NAME@K" in ilrec("compare", *base, "a", "b", "--metrics", "hit@²").one_line()
    line = refusal(lambda: configs.build(Evaluate, {"dataset": "toy", "run": "x", "exit_layer": "²"}, "ilrec evaluate"))
    assert line is not None
    assert "expected a layer" in line
    line = refusal(lambda: resolve(("²",), 4))
    assert line is not None
    assert "numbers from 1 to 4" in line
