"""What a cell may hold: the same in every format and block, one unit of time in a log, misfits never silently nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from conftest import Finished
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import load, load_raw
from test_odd_files import data, preprocess

from ilrec_cli.datasets import _times
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.errors import UserError

Run = Callable[..., Finished]
FORMATS = ("csv", "jsonl", "parquet")


def log(folder: Path, form: str, times: list[object], **columns: list[object]) -> None:
    """One user with an item a time; values of several types are text in Parquet."""
    table = {"user_id": ["u"] * len(times), "item_id": [f"i{row}" for row in range(len(times))], "timestamp": times}
    table |= columns
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    folder.mkdir(exist_ok=True)
    if form == "csv":
        cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
        (folder / "log.csv").write_text("\n".join(",".join(row) for row in [list(table), *cells]) + "\n")
    elif form == "jsonl":
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mixed = [name for name, values in table.items() if len({type(value) for value in values} - {type(None)}) > 1]
        text = {name: [None if value is None else str(value) for value in table[name]] for name in mixed}
        pl.DataFrame(table | text).write_parquet(folder / "log.parquet")


S = 1_450_000_000
CASES: list[tuple[list[object], int, list[int]]] = [
    ([S, S + 1], 1, [S, S + 1]),
    ([float(S), S + 1.0], 1, [S, S + 1]),
    ([S + 0.25, S], 10**6, [S * 10**6 + 250_000, S * 10**6]),
    ([S * 1000 + 0.5, S * 1000], 10**6, [S * 10**6 + 500, S * 10**6]),
    ([S * 10**6 + 0.5, S * 10**6], 10**6, [S * 10**6 + 1, S * 10**6]),
    ([f"{S * 10**9}.0", S * 10**9 + 1], 10**9, [S * 10**9, S * 10**9 + 1]),
    (["2016-01-01", "2016-01-02"], 1, [1451606400, 1451692800]),
    (["2016-01-01T00:00:00.5", "2016-01-02"], 10**6, [1451606400500000, 1451692800000000]),
    (["2016-01-01", S * 1000], 1000, [1451606400000, S * 1000]),
    (["2016-01-01T00:00:00.000001", S * 1000 + 1], 10**6, [1451606400000001, S * 10**6 + 1000]),
    (["2016-01-01T00:00:00.5", S * 10**9 + 3], 10**9, [1451606400 * 10**9 + 500_000_000, S * 10**9 + 3]),
    (["2016-01-01T00:00:00.5", -5], 10**6, [1451606400500000, -5_000_000]),
    (["-0.5", "1e3"], 10**6, [-500_000, 10**9]),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("times", "ticks", "expected"), CASES)
def test_a_log_has_one_unit(times: list[object], ticks: int, expected: list[int], form: str, tmp_path: Path) -> None:
    """Written out by hand, whole logs and logs of which every part looks different by itself."""
    log(tmp_path, form, times)
    raw = load_raw("table", tmp_path)
    assert (raw.ticks, raw.interactions.table()["timestamp"].to_list()) == (ticks, expected)
    log(tmp_path, form, times[::-1])
    assert load("table", tmp_path, block=40)[0]["timestamp"].to_list() == expected[::-1]


@given(st.lists(st.one_of(
    st.integers(-(10**12), 10**12), st.decimals(-(10**6), 10**6, allow_nan=False, places=4),
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
), min_size=1))  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_parsing_a_column_is_parsing_its_cells(values: list[object]) -> None:
    texts = [value.isoformat() if isinstance(value, datetime) else str(value) for value in values]
    stamps = _times.stamps(_times.parsed(pl.Series("t", texts))).to_list()
    assert [tuple(stamp.values()) for stamp in stamps] == [tuple(_times.one(text) or ()) for text in texts]


@pytest.mark.parametrize("time", [float("nan"), float("inf"), 1e300, "1_000", "1_0.5"])
@pytest.mark.parametrize("form", FORMATS)
def test_what_is_no_time_is_a_fault(time: object, form: str, tmp_path: Path) -> None:
    log(tmp_path, form, [1.5, time, 2.5] if isinstance(time, float) else ["1.5", time, "2.5"])
    with pytest.raises(UserError, match=rf":{ {'csv': 3, 'jsonl': 2, 'parquet': 2}[form] }: "):
        load("table", tmp_path)
    faults = Faults(skip=True)
    assert load("table", tmp_path, faults=faults)[0]["item"].to_list() == ["i0", "i2"]
    assert len(faults.rejected) == 1


def test_a_time_that_the_unit_cannot_hold_is_refused(tmp_path: Path) -> None:
    log(tmp_path, "csv", ["9999-01-01", S * 10**9])
    with pytest.raises(UserError, match="too far from the others"):
        load("table", tmp_path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rating", ["abc", "nan", "1_0", float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_what_is_no_rating_is_a_fault(rating: object, form: str, block: int, tmp_path: Path) -> None:
    log(tmp_path, form, [1, 2, 3], rating=[4.0, rating, 2.0])
    with pytest.raises(UserError, match="'?rating'? is .*, expected a number"):
        load("table", tmp_path, block=block)


@pytest.mark.parametrize("form", FORMATS)
def test_ratings_may_be_text_or_nothing(form: str, tmp_path: Path) -> None:
    log(tmp_path, form, [1, 2, 3, 4], rating=["5", None, " 3.5 ", ""])
    assert load("table", tmp_path)[0]["rating"].to_list() == [5.0, None, 3.5, None]


@pytest.mark.parametrize("value", ["true", "[1]", '{"a": 1}'])
def test_json_values_that_are_no_ratings_are_faults(value: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(f'{{"user_id": "u", "item_id": "i", "timestamp": 1, "rating": {value}}}\n')
    with pytest.raises(UserError, match="log.jsonl:1: field 'rating' is"):
        load("table", tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_labels_of_a_split_are_known_or_faults(form: str, tmp_path: Path) -> None:
    log(tmp_path, form, [1, 2, 3], s=["train", None, "val"])
    with pytest.raises(UserError, match="'s' is 'val', expected train, valid, test or nothing"):
        load("table", tmp_path, split_col="s")
    log(tmp_path, form, [1, 2, 3], s=["train", None, "test"])
    assert load("table", tmp_path, split_col="s")[0]["split"].to_list() == ["train", None, "test"]


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_odd_lines_mean_the_same_in_every_block(block: int, tmp_path: Path) -> None:
    """A block with a fault is read line by line; what is beside the fault must not change."""
    good = '{"user_id": "u", "item_id": "x", "item_id": "y", "timestamp": 1}\n'
    bad = '{"user_id": "u", "item_id": true, "timestamp": 2}\n'
    (tmp_path / "log.jsonl").write_text(good + bad)
    assert load("table", tmp_path, faults=Faults(skip=True), block=block)[0]["item"].to_list() == ["x"]
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.csv").write_bytes(b"user_id,item_id,timestamp\nu,a\rb,1\nu,c,2\nu,d,x\n")
    faults = Faults(skip=True)
    assert load("table", tmp_path, faults=faults, block=block)[0]["item"].to_list() == ["c"]
    assert [row["line"] for row in faults.rejected] == [2, 4]


@pytest.mark.parametrize(
    ("times", "flags", "items"),
    [
        ([S * 1000 + 0.5, S * 1000 + 9], ["--since", S * 1000 + 1], ["i1"]),  # kept in microseconds
        ([S, S + 1], ["--since", S + 0.5], ["i1"]),
        ([S, S + 1], ["--until", S + 0.5], ["i0"]),
        ([S, S + 10**8], ["--since", "2016-01-01"], ["i1"]),
        ([S + 0.5, S + 10**8], ["--until", "2016-01-01"], ["i0"]),
        ([2015, 2016], ["--since", 2016], ["i1"]),
    ],
)
def test_moments_are_in_the_unit_of_the_file(
    times: list[object], flags: list[object], items: list[str], tmp_path: Path, ilrec: Run
) -> None:
    log(tmp_path / "raw", "csv", times)
    assert preprocess(ilrec, tmp_path / "raw", *flags).code == 0
    assert data(tmp_path / "raw").table("items")["raw_id"].to_pylist() == items


@pytest.mark.parametrize(("given", "date"), [("2016", "2016-01-01"), ("20160229", "2016-02-29")])
def test_a_year_is_no_time_in_seconds(given: str, date: str, tmp_path: Path, ilrec: Run) -> None:
    log(tmp_path / "raw", "csv", [S, S + 1])
    assert f"write {date}" in preprocess(ilrec, tmp_path / "raw", "--since", given).one_line()


def test_where_every_line_is_rejected_the_first_is_named(tmp_path: Path, ilrec: Run) -> None:
    log(tmp_path / "raw", "csv", ["x", "y"])
    line = preprocess(ilrec, tmp_path / "raw", "--on-error", "skip").one_line()
    assert "2 lines were rejected, the first log.csv:2: column 'timestamp' is 'x'" in line
