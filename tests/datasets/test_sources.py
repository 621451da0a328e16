"""Every source on files written from its documented format, and what all of them owe."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from raw_files import REVIEWS, SOURCES, amazon, lcrec, lines, load

from ilrec_cli import cli, plugins
from ilrec_cli.datasets import _text
from ilrec_cli.errors import UserError


def test_every_source_is_tested() -> None:
    assert sorted(SOURCES) == plugins.names("datasets")


@pytest.mark.parametrize("name", SOURCES)
def test_columns_types_and_no_null_ids(name: str, tmp_path: Path) -> None:
    interactions, items = load(name, SOURCES[name](tmp_path / "raw"))
    kinds = {
        "user": pl.String,
        "item": pl.String,
        "timestamp": pl.Int64,
        "rating": pl.Float32,
        "row": pl.Int64,
    }
    assert [type(interactions.schema[column]) for column in kinds] == list(kinds.values())
    assert set(interactions.columns) - set(kinds) <= {"split"}
    assert list(items.columns) == ["raw_id", "source_id", "title", "description", "brand", "categories"]
    assert items.schema["categories"] == pl.List(pl.String)
    for column in ("user", "item", "timestamp", "row"):
        assert interactions[column].null_count() == 0
    assert interactions["row"].to_list() == list(range(len(interactions)))
    assert items["raw_id"].is_unique().all()
    assert set(interactions["item"]) <= set(items["raw_id"])


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "synthetic"])
def test_files_are_detected_by_content(name: str, tmp_path: Path) -> None:
    folder = SOURCES[name](tmp_path / "raw")
    assert [each for each in plugins.names("datasets") if plugins.load("datasets", each).detect(folder)] == [name]


def test_amazon_rows_and_text(tmp_path: Path) -> None:
    interactions, items = load("amazon2018", amazon(tmp_path / "raw"))
    assert interactions.rows() == [
        ("U2", "B1", 200, 5.0, 0),
        ("U1", "B2", 100, 4.0, 1),
        ("U1", "B1", 100, 1.5, 2),
    ]
    assert items.rows() == [
        ("B1", "B1", "Tom & Jerry", "Fun for all", "A", ["Toys", "Games"]),
        ("B2", None, None, None, None, None),
    ]


def test_lcrec_rows_and_text(tmp_path: Path) -> None:
    folder = lcrec(tmp_path / "raw")
    interactions, items = load("lcrec", folder)
    assert interactions.select("user", "item", "timestamp").rows() == [
        ("0", "1", 0),
        ("0", "0", 1),
        ("0", "1", 2),
        ("1", "0", 0),
        ("1", "2", 1),
    ]
    assert items.filter(pl.col("source_id") == "0").rows() == [("0", "0", "T0", "one two", "B", ["x", "y"])]
    assert items["source_id"].to_list() == ["0", "1", "2", "7"]
    (folder / "Toys.user2id").write_text("ALICE\t0\nBOB\t1\n")
    (folder / "Toys.item2id").write_text("B000\t0\nB001\t1\nB002\t2\n")
    interactions, items = load("lcrec", folder)
    assert interactions.select("user", "item").rows()[0] == ("ALICE", "B001")
    assert items.select("raw_id", "source_id").rows()[:2] == [("B000", "0"), ("B001", "1")]


def test_synthetic_raw_files_hold_the_same_world(tmp_path: Path) -> None:
    """What the demonstration writes as raw Amazon files reads back as what the source generates."""
    source = plugins.load("datasets", "synthetic")
    config = source.Config(users=40, seed=3)
    plugins.part(source, "load").write_raw(tmp_path / "raw", "Shop", config)
    from_files = load("amazon2018", tmp_path / "raw")
    direct = load("synthetic", tmp_path, users=40, seed=3)
    assert from_files[0].equals(direct[0])
    joined = from_files[1].join(direct[1], on="raw_id", suffix="_direct")
    assert (joined["title"] == joined["title_direct"]).all()
    assert joined["categories"].to_list() == joined["categories_direct"].to_list()
    before = (tmp_path / "raw" / "Shop.json.gz").read_bytes()
    plugins.part(source, "load").write_raw(tmp_path / "raw", "Shop", config)
    assert (tmp_path / "raw" / "Shop.json.gz").read_bytes() == before


def test_several_candidates_need_a_choice(tmp_path: Path) -> None:
    folder = amazon(tmp_path / "raw")
    lines(folder / "Other.json.gz", REVIEWS)
    assert len(load("amazon2018", folder)[0]) == 3, "the one named after the data set"
    lines(folder / "Toys_more.json.gz", REVIEWS)
    with pytest.raises(UserError, match="several files hold reviews"):
        load("amazon2018", folder)
    assert len(load("amazon2018", folder, reviews=folder / "Other.json.gz")[0]) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace(b'"asin": "B2"', b'"asin": "B2'), r"Toys_5.json.gz:2: not valid JSON"),
        (
            lambda text: text.replace(b'"asin": "B2", ', b""),
            r"Toys_5.json.gz:2: field 'asin' is missing, expected text",
        ),
        (lambda text: text.replace(b'"asin": "B2"', b'"asin": 7'), None),
        (
            lambda text: text.replace(b'"unixReviewTime": 200', b'"unixReviewTime": "soon"'),
            r"Toys_5.json.gz:1: field 'unixReviewTime' is 'soon', expected a whole number",
        ),
        (
            lambda text: text.replace(b'"overall": 1.5, ', b""),
            r"Toys_5.json.gz:3: field 'overall' is missing, expected a number",
        ),
        (lambda text: text + b"[1, 2]\n", r"Toys_5.json.gz:4: expected a JSON object, got list"),
        (lambda text: text + b"garbage\n", r"Toys_5.json.gz:4: not valid JSON"),
    ],
)
def test_bad_lines_are_named(spoil: Any, message: str | None, tmp_path: Path) -> None:
    folder = amazon(tmp_path / "raw")
    text = "".join(json.dumps(row) + "\n" for row in REVIEWS).encode()
    spoilt = spoil(text)
    assert spoilt != text
    (folder / "Toys_5.json.gz").write_bytes(gzip.compress(spoilt))
    if message is None:  # a number where text is expected is read as text
        assert load("amazon2018", folder)[0]["item"].to_list() == ["B1", "7", "B1"]
    else:
        with pytest.raises(UserError, match=message):
            load("amazon2018", folder)


@pytest.mark.parametrize(
    ("line", "message"), [(b"{oops}", ":1: not valid JSON"), (b'{"reviewerID": "U"}', ":1: field 'asin' is missing")]
)
def test_a_bad_first_line_is_named_too(line: bytes, message: str, tmp_path: Path) -> None:
    folder = amazon(tmp_path / "raw")
    text = "".join(json.dumps(row) + "\n" for row in REVIEWS).encode()
    (folder / "Toys_5.json.gz").write_bytes(gzip.compress(line + b"\n" + text))
    assert plugins.load("datasets", "amazon2018").detect(folder)
    with pytest.raises(UserError, match=f"Toys_5.json.gz{message}"):
        load("amazon2018", folder)
    lines(folder / "Toys_5.json.gz", REVIEWS)
    (folder / "meta_Toys.json").write_bytes(b"{oops}\n")
    with pytest.raises(UserError, match="meta_Toys.json:1: not valid JSON"):
        load("amazon2018", folder)


def test_permuting_rows_that_differ_in_user_and_time_changes_no_byte(tmp_path: Path) -> None:
    """The whole artifact, by its digest; only ties in (user, time) depend on the order of the file."""
    rows = [
        {"reviewerID": f"u{u}", "asin": f"i{(u * 3 + i) % 9}", "overall": 5.0, "unixReviewTime": 100 * u + i}
        for u in range(8)
        for i in range(7)
    ]
    digests = set()
    for seed in range(4):
        folder = tmp_path / f"raw{seed}"
        folder.mkdir()
        order = np.random.default_rng(seed).permutation(len(rows)) if seed else range(len(rows))
        lines(folder / "Toys.json.gz", [rows[place] for place in order])
        work = tmp_path / f"work{seed}"
        result = cli.invoke(
            [
                "preprocess",
                "--dataset",
                "Toys",
                "--work",
                str(work),
                "--raw-dir",
                str(folder),
                "--user-k",
                "2",
                "--item-k",
                "2",
                "--quiet",
            ]
        )
        digests.add(result["digest"])
    assert len(digests) == 1


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    folder = amazon(tmp_path / "raw")
    whole = lines(folder / "Toys_5.json.gz", REVIEWS * 500).read_bytes()
    for cut in (len(whole) // 2, len(whole) - 4):
        (folder / "Toys_5.json.gz").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"Toys_5.json.gz: .*truncated or corrupt"):
            load("amazon2018", folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0": [1, 2}', r"Toys.inter.json:1: not valid JSON at column 12"),
        ("[[1, 2]]", "expected an object of user -> list of items"),
        ('{"0": 3}', "user '0' is '3', expected a list of item ids"),
        ('{"0": [1, null]}', "expected a list of item ids"),
        ('{"0": [1, true]}', "expected a list of item ids"),
    ],
)
def test_odd_lcrec_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    folder = lcrec(tmp_path / "raw")
    (folder / "Toys.inter.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load("lcrec", folder)


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("  a \t b\n", "a b"),
        ("Tom &amp; &quot;Jerry&quot;", 'Tom & "Jerry"'),
        ("<a href='x'>link</a> text", "link text"),
        ("5 < 6 and 7 > 3", "5 < 6 and 7 > 3"),
        ("['one', 'it''s']", "one its"),
        ('["a", ["b"]]', "a b"),
        ("[not a list", "[not a list"),
        ("[__import__('os').system('true')]", "[__import__('os').system('true')]"),
        (["x", None, ""], "x"),
        (None, ""),
        ("zero\u200bwidth\x00", "zero width"),
    ],
)
def test_text_becomes_plain_and_nothing_is_executed(raw: Any, plain: str) -> None:
    assert _text.plain(raw) == plain
