"""Intervals and p-values against enumeration, loops and what they promise."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ilrec_cli import significance
from ilrec_cli.significance import Sums, difference, holm, intervals, per_user, sign_flip


def one_group(value_UC: np.ndarray, count_U: np.ndarray | None = None) -> Sums:
    count_U = np.ones(len(value_UC)) if count_U is None else count_U
    return Sums(value_UC, count_U[:, None], np.zeros(value_UC.shape[1], dtype=int))


def test_how_often_a_user_is_drawn_is_poisson() -> None:
    weights = significance._WEIGHTS
    assert weights.mean() == pytest.approx(1, abs=1e-3)
    assert weights.var() == pytest.approx(1, abs=2e-3)
    assert (weights == 0).mean() == pytest.approx(np.exp(-1), abs=1e-4)


def test_the_interval_is_that_of_the_normal_approximation_where_that_holds() -> None:
    value = (np.random.default_rng(0).random((20_000, 1)) < 0.1).astype(float)
    (low,), (high,) = intervals(one_group(value))
    half = 1.96 * np.sqrt(0.09 / 20_000)
    assert low == pytest.approx(value.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(value.mean() + half, abs=0.1 * half)


def test_users_are_drawn_and_not_events() -> None:
    """Ten events of one user that are all alike tell no more than one: the interval is as wide as with one each."""
    rng = np.random.default_rng(1)
    hit = (rng.random(400) < 0.3).astype(float)
    events, users = np.repeat(hit, 10), np.repeat(np.arange(400), 10)
    clustered = intervals(one_group(per_user(users, [events]), np.full(400, 10.0)))
    single = intervals(one_group(hit[:, None]))
    np.testing.assert_allclose(clustered, single, atol=1e-12)


def test_the_order_of_events_plays_no_part_and_the_seed_does() -> None:
    rng = np.random.default_rng(2)
    user, value = rng.integers(50, size=300), rng.random(300)
    shuffled = rng.permutation(300)
    one, two = (per_user(user[rows], [value[rows]]) for rows in (np.arange(300), shuffled))
    np.testing.assert_allclose(one, two, atol=1e-12)
    np.testing.assert_allclose(intervals(one_group(one)), intervals(one_group(two)), atol=1e-12)
    assert intervals(one_group(one), seed=0) != intervals(one_group(one), seed=1)


def test_a_group_without_events_has_no_interval() -> None:
    sums = Sums(np.ones((5, 2)), np.stack([np.ones(5), np.zeros(5)], 1), np.array([0, 1]))
    low, high = intervals(sums)
    assert np.isnan([low[1], high[1]]).all()
    assert low[0] == high[0] == 1


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=8))
def test_few_users_are_tested_by_all_signs(gaps: list[float]) -> None:
    seen = abs(sum(gaps))
    ways = [
        abs(sum(sign * gap for sign, gap in zip(signs, gaps, strict=True)))
        for signs in product((-1, 1), repeat=len(gaps))
    ]
    expected = np.mean([way >= seen - 1e-9 for way in ways])
    assert sign_flip(np.array(gaps)[:, None])[0] == pytest.approx(expected)


def test_many_users_are_tested_by_draws() -> None:
    rng = np.random.default_rng(3)
    nothing = rng.choice([-1.0, 0.0, 1.0], size=(2000, 1))
    same, other = sign_flip(np.concatenate([nothing, nothing + 0.2], 1))
    normal = math.erfc((abs(nothing.sum()) - 1) / math.sqrt((nothing**2).sum() * 2))  # sums are two apart
    assert same == pytest.approx(normal, abs=0.02)
    assert other == pytest.approx(1 / (significance.FLIPS + 1))


def test_p_values_of_no_difference_are_uniform() -> None:
    rng = np.random.default_rng(4)
    p = sign_flip(rng.normal(size=(60, 400)))
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.035)
    assert (p < 0.5).mean() == pytest.approx(0.5, abs=0.09)


def test_a_difference_is_that_of_the_means_and_its_sign_turns_with_the_sides() -> None:
    rng = np.random.default_rng(5)
    a, b = (one_group((rng.random((500, 1)) < share).astype(float)) for share in (0.2, 0.3))
    one, two = difference(a, b), difference(b, a)
    assert one.mean_C[0] == pytest.approx(b.value_UC.mean() - a.value_UC.mean())
    assert one.low_C[0] < one.mean_C[0] < one.high_C[0]
    assert one.low_C[0] == pytest.approx(-two.high_C[0], abs=0.01)
    assert one.p_C == two.p_C < 0.05


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_step_by_step(p: list[float]) -> None:
    order = sorted(range(len(p)), key=lambda place: p[place])
    expected, worst = [0.0] * len(p), 0.0
    for done, place in enumerate(order):
        worst = max(worst, p[place] * (len(p) - done))
        expected[place] = min(worst, 1.0)
    assert holm(np.array(p)).tolist() == pytest.approx(expected)
