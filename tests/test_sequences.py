"""k-core, order, repeats and splits against plain loops."""

from __future__ import annotations

from collections import Counter

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
    passes = list(sequences.core_passes(table(rows), 3, 3))
    sizes = [counts[2] for _, counts in passes]
    assert sizes == sorted(set(sizes), reverse=True)
    for kept, counts in passes:
        left = table(rows) if kept is None else table(rows)[kept]
        assert counts == (left["user"].n_unique(), left["item"].n_unique(), len(left))


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


@given(pairs, st.sampled_from(["text", "interned", "far apart"]))
def test_k_core_takes_any_kind_of_id(rows: list[tuple[int, int, int]], kind: str) -> None:
    plain = table(rows)
    ids = pl.col("user", "item")
    other = {
        "text": plain.with_columns(ids.cast(pl.String) + "x"),
        "interned": plain.with_columns((ids.cast(pl.String) + "x").cast(pl.Categorical)),
        "far apart": plain.with_columns(ids * 10**15 - 3),
    }[kind]
    assert sequences.k_core(other, 2, 3)["row"].to_list() == sequences.k_core(plain, 2, 3)["row"].to_list()
