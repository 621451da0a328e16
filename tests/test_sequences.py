"""k-core, order, repeats and splits against plain loops."""

from __future__ import annotations

from collections import Counter
from functools import partial

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


@given(st.lists(pairs, min_size=1, max_size=3))
def test_the_last_pass_is_the_core_and_every_pass_drops(parts: list[list[tuple[int, int, int]]]) -> None:
    """Parts hold users of their own, and share their items."""

    def codes(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        return np.array([u for u, _, _ in rows], dtype=int), np.array([i for _, i, _ in rows], dtype=int)

    passes = list(sequences.core_passes([partial(codes, rows) for rows in parts], 3, 3))
    sizes = [counts[2] for _, counts in passes]
    assert sizes == sorted(set(sizes), reverse=True)
    for kept, counts in passes:
        left = [(part, rows[place][0], rows[place][1]) for part, rows in enumerate(parts)
                for place in (range(len(rows)) if kept[part] is None else kept[part])]  # fmt: skip
        assert counts == (len({(part, u) for part, u, _ in left}), len({i for _, _, i in left}), len(left))
    whole = [(10 * part + u, i, t) for part, rows in enumerate(parts) for u, i, t in rows]
    assert len(left) == len(k_core_by_loop(whole, 3, 3))


@given(pairs)
def test_the_first_of_pairs_comes_first(rows: list[tuple[int, int, int]]) -> None:
    user, item = (np.array([row[place] for row in rows], dtype=int) for place in (0, 1))
    kept = np.flatnonzero(sequences.first_of_pairs(user, item)).tolist()
    first: dict[tuple[int, int], int] = {}
    for number, (u, i, _) in enumerate(rows):
        first.setdefault((u, i), number)
    assert kept == list(first.values())


@given(pairs, st.sampled_from([1, -1, 10**17, -(10**17), 2**61]))
def test_ties_in_time_break_by_place(rows: list[tuple[int, int, int]], scale: int) -> None:
    """The last scales leave no room for user and time in one key."""
    expected = sorted(range(len(rows)), key=lambda n: (rows[n][0], rows[n][2] * scale, n))
    user, time = np.array([u for u, _, _ in rows], dtype=int), np.array([t * scale for _, _, t in rows], dtype=int)
    assert sequences.order(user, time).tolist() == expected


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
