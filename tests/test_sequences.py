"""k-core, order, repeats and splits against plain loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ilrec_cli import sequences

pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, 3)), max_size=60)


def table(rows: list[tuple[int, int, int]]) -> pl.DataFrame:
    columns = {"user": [u for u, _, _ in rows], "item": [i for _, i, _ in rows], "timestamp": [t for _, _, t in rows]}
    return pl.DataFrame(columns | {"row": list(range(len(rows)))}, schema=dict.fromkeys((*columns, "row"), pl.Int64))


def k_core_by_loop(rows: list[tuple[int, int, int]], user_k: int, item_k: int) -> list[int]:
    """Numbers of the rows that are left when nothing more can be dropped, one row at a time."""
    left = list(range(len(rows)))
    while True:
        users, items = Counter(rows[n][0] for n in left), Counter(rows[n][1] for n in left)
        bad = [n for n in left if users[rows[n][0]] < user_k or items[rows[n][1]] < item_k]
        if not bad:
            return left
        left.remove(bad[0])


@given(pairs, st.integers(0, 4), st.integers(0, 4))
def test_k_core_equals_dropping_one_row_at_a_time(rows: list[tuple[int, int, int]], user_k: int, item_k: int) -> None:
    core = sequences.k_core(table(rows), user_k, item_k)
    assert core["row"].to_list() == k_core_by_loop(rows, user_k, item_k)


@given(pairs)
def test_the_last_pass_is_the_core_and_every_pass_drops(rows: list[tuple[int, int, int]]) -> None:
    sizes = [len(part) for part in sequences.core_passes(table(rows), 3, 3)]
    assert sizes == sorted(set(sizes), reverse=True)


@given(pairs)
def test_repeats_keep_the_first_in_time_then_in_the_file(rows: list[tuple[int, int, int]]) -> None:
    kept = sequences.drop_repeats(table(rows))["row"].to_list()
    first: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (user, item, time) in enumerate(rows):
        first[user, item] = min(first.get((user, item), (time, number)), (time, number))
    assert sorted(kept) == sorted(number for _, number in first.values())


@given(pairs)
def test_ties_in_time_break_by_input_row(rows: list[tuple[int, int, int]]) -> None:
    ordered = sequences.in_order(table(rows))
    expected = sorted(range(len(rows)), key=lambda n: (rows[n][0], rows[n][2], n))
    assert ordered["row"].to_list() == expected


@given(st.lists(st.integers(0, 6), max_size=8))
def test_leave_one_out_by_hand(lengths: list[int]) -> None:
    expected = []
    for user, length in enumerate(lengths):
        for end in range(1, length):
            left = length - 1 - end
            tested = length >= 3
            expected.append(
                (user, end, "test" if tested and left == 0 else "valid" if tested and left == 1 else "train")
            )
    found = sequences.leave_one_out(np.array(lengths, dtype=np.int64))
    assert list(zip(found.user.tolist(), found.end.tolist(), found.split.tolist(), strict=True)) == expected
