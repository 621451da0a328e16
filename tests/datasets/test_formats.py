"""What each source makes of its files: rows, text, splits."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from raw_files import REVIEWS, SOURCES, candidates, lines, load, load_raw, minionerec, recbole, table

from ilrec_cli import artifacts
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.errors import UserError

CORE = ("user", "item", "timestamp", "rating")


def rows(interactions: pl.DataFrame, *columns: str) -> list[tuple[object, ...]]:
    return interactions.select(*(columns or CORE)).rows()


def test_amazon_2014_metadata_is_python_notation(tmp_path: Path) -> None:
    interactions, items = load("amazon2014", SOURCES["amazon2014"](tmp_path / "raw"))
    assert rows(interactions)[0] == ("U2", "B1", 200, 5.0)
    assert items.rows()[0] == ("B1", "B1", "It's a game", "", "A", ["Toys", "Games", "Gifts"])


def test_nothing_in_2014_metadata_is_executed(tmp_path: Path) -> None:
    folder = SOURCES["amazon2014"](tmp_path / "raw")
    marker = tmp_path / "executed"
    (folder / "meta_Toys.json.gz").write_text(f"{{'asin': 'B1', 'title': open({str(marker)!r}, 'w')}}\n")
    with pytest.raises(UserError, match=r"meta_Toys.json.gz:1: cannot be parsed"):
        load("amazon2014", folder)
    assert not marker.exists()


def test_amazon_2018_ratings_have_the_item_first(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "Toys.csv").write_text(
        "B000000001,A2SUAM1J3GNN3B,5.0,1358380800\nB000000002,A14R9XMZVJ6INB,4.0,1357603200\n"
    )
    interactions, _ = load("amazon2018", raw)
    assert rows(interactions) == [
        ("A2SUAM1J3GNN3B", "B000000001", 1358380800, 5.0),
        ("A14R9XMZVJ6INB", "B000000002", 1357603200, 4.0),
    ]


def test_amazon_2023_items_are_parents_and_times_milliseconds(tmp_path: Path) -> None:
    interactions, items = load("amazon2023", SOURCES["amazon2023"](tmp_path / "raw"))
    assert rows(interactions)[0] == ("U2", "B1", 1600000000123, 5.0)
    assert items.rows() == [("B1", "B1", "Kite", "Red big", "Acme", ["Toys"])]


def test_recbole_atomic_files(tmp_path: Path) -> None:
    interactions, items = load("recbole", recbole(tmp_path / "raw"))
    assert rows(interactions) == [("u2", "b1", 200, 5.0), ("u1", "b2", 100, 4.0), ("u1", "b1", 101, 1.5)]
    assert items.rows() == [("b1", "b1", 'Big "Kite"', "", "", ["Toys", "Kites"]), ("b2",) * 1 + (None,) * 5]


@pytest.mark.parametrize("cut", [2, 50])
def test_recbole_fixed_splits_become_sequences(cut: int, tmp_path: Path) -> None:
    """Every prefix a row, histories cut to their last items, the latest target first, as LC-Rec writes them."""
    sequences = {"u1": ["a", "b", "c", "d", "e", "b"], "u2": ["c", "a", "e", "d"]}
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    for split in ("train", "valid", "test"):
        text = header
        for user, items in sequences.items():
            ends = {"train": range(len(items) - 3, 0, -1), "valid": [len(items) - 2], "test": [len(items) - 1]}[split]
            text += "".join(f"{user}\t{' '.join(items[max(0, end - cut) : end])}\t{items[end]}\n" for end in ends)
        (tmp_path / f"toys.{split}.inter").write_text(text)
    interactions, _ = load("recbole", tmp_path)
    found = interactions.sort("user", "timestamp")
    for user, items in sequences.items():
        part = found.filter(pl.col("user") == user)
        assert part["item"].to_list() == items
        assert part["split"].to_list() == [None, *["train"] * (len(items) - 3), "valid", "test"]


def test_rows_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    for split, row in {"train": "u\ta\tb", "valid": "u\ta b\tc", "test": "u\tx y z\td"}.items():
        (tmp_path / f"toys.{split}.inter").write_text(f"{header}{row}\n")
    with pytest.raises(UserError, match="user 'u' do not fit together: 3 targets, but their histories lead through 2"):
        load("recbole", tmp_path)


def test_minionerec_keeps_its_split(tmp_path: Path) -> None:
    interactions, items = load("minionerec", minionerec(tmp_path / "raw"))
    found = interactions.sort("user", "timestamp").select("user", "item", "timestamp", "rating", "split").rows()
    assert found == [
        ("1", "A0", 10, 5.0, None), ("1", "A1", 11, 4.0, "train"), ("1", "A2", 20, 3.0, "valid"), ("1", "A3", 30, 3.0, "test"),
        ("2", "A2", 10, 1.0, None), ("2", "A0", 12, 2.0, "train"),
    ]  # fmt: skip
    assert dict(items.select("raw_id", "title").rows()) == {"A0": "Zero", "A1": "One, 1", "A2": "Two", "A3": "Three"}
    assert dict(items.select("raw_id", "source_id").rows())["A3"] == "3"


def test_candidate_rows_are_users_with_one_target(tmp_path: Path) -> None:
    raw = load_raw("candidates", candidates(tmp_path / "raw"))
    assert rows(raw.interactions.table(), "user", "item", "split")[:3] == [
        ("test-0000001", "Boris", None), ("test-0000001", "Fever Ray", None), ("test-0000001", "Hope", "test"),
    ]  # fmt: skip
    assert set(raw.items["raw_id"]) == {"Boris", "Fever Ray", "Otis", "Hope", "Anna"}
    assert raw.candidates is not None
    assert raw.candidates["items"].to_list()[0] == ["Otis", "Hope", "Anna"]


def test_published_sets_stand_with_targets_that_they_hold(tmp_path: Path, ilrec: Callable[..., Any]) -> None:
    """Hope goes with the k-core, so that its users' last events have other targets than their sets were made for."""
    raw = tmp_path / "raw"
    candidates(raw)
    targets = {"train": ["Otis", "Otis"], "val": ["Otis", "Hope"], "test": ["Anna", "Anna", "Otis"]}
    for split, chosen in targets.items():
        found = [{"historyList": "Boris::Ray::Otis::Anna", "itemList": ["Otis", "Hope", "Anna"], "trueSelection": name}
                 for name in chosen]  # fmt: skip
        (raw / f"Toys-{split}.json").write_text(json.dumps(found))
    flags = ["preprocess", "--dataset", "toys", "--work", tmp_path, "--raw-dir", raw, "--repeats", "keep"]
    done = ilrec(*flags, "--item-k", 2, "--candidates", 5, "--split", "given")
    assert done.code == 0, done.err
    assert "publishes its own sets" in done.err
    data = artifacts.read(tmp_path / "toys" / "data", "data")
    names = data.table("items")["raw_id"].to_pylist()
    sequences = data.table("sequences")["items"].to_pylist()
    events = {row["event"]: row for row in data.table("splits").to_pylist()}
    sets = data.table("candidates").to_pylist()
    assert len(sets) == 6, "two of training, one of validation, three of test"
    for row in sets:
        event = events[row["event"]]
        assert sequences[event["user"]][event["end"]] in row["items"]
        assert [names[item] for item in row["items"]] == ["Otis", "Hope", "Anna"]
    assert data.json("card.json")["dropped"]["published candidate sets that fit no target"] == 1
    found = [
        {"historyList": "Boris::Ray", "itemList": ["Hope", "Anna"], "trueSelection": name} for name in ("Hope", "Anna")
    ]
    for split in targets:  # what was chosen goes with the k-core, once each
        (raw / f"Toys-{split}.json").unlink()
    (raw / "Toys-val.json").write_text(json.dumps(found))
    done = ilrec(*flags, "--item-k", 2, "--split", "leave-one-out")
    assert "no candidates.parquet" in done.err
    assert not (data.path / "candidates.parquet").exists()


def test_a_share_of_the_validation_file_trains_where_there_is_no_other(
    tmp_path: Path, ilrec: Callable[..., Any]
) -> None:
    raw = tmp_path / "raw"
    candidates(raw)
    (raw / "Toys-train.json").unlink()
    found = [{"historyList": "Boris::Ray", "itemList": ["Otis", "Hope", "Anna"], "trueSelection": "Hope"}] * 10
    (raw / "Toys-val.json").write_text(json.dumps(found))
    flags = ["preprocess", "--dataset", "toys", "--work", tmp_path, "--raw-dir", raw]
    assert ilrec(*flags, "-o", "valid_share=0.3").code == 0
    data = artifacts.read(tmp_path / "toys" / "data", "data")
    users = data.table("users")["raw_id"].to_pylist()
    split = {users[row["user"]]: row["split"] for row in data.table("splits").to_pylist()}
    assert [split[f"valid-{number:07d}"] for number in range(1, 11)] == ["train"] * 7 + ["valid"] * 3
    assert len(data.table("candidates")) == 11
    assert "more than 0" in ilrec(*flags, "-o", "valid_share=0").one_line()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
def test_tables_of_every_kind_say_the_same(suffix: str, tmp_path: Path) -> None:
    folder = table(tmp_path / "raw")
    known = load("table", folder)[0]
    frame = pl.read_csv(folder / "log.csv")
    (folder / "log.csv").unlink()
    path = folder / f"log.{suffix}"
    if suffix == "parquet":
        frame.write_parquet(path)
    elif suffix == "jsonl":
        frame.write_ndjson(path)
    else:
        text = frame.write_csv(separator="\t" if suffix == "tsv" else ",").encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert (
        rows(load("table", folder)[0])
        == rows(known)
        == [("u2", "b1", 200, 5.0), ("u1", "b2", 100, None), ("u1", "b1", 101, 1.5)]
    )


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("2016-10-01", 1475280000), ("2016-10-01T00:00:01", 1475280001), ("2016-10-01 00:00:02", 1475280002),
     ("2016-10-01T02:00:00+02:00", 1475280000), ("1475280000", 1475280000), ("1475280000.0", 1475280000), ("1475280000.9", 1475280000900000), ("-5", -5)],
)  # fmt: skip
def test_times_are_numbers_or_dates(time: str, seconds: int, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"user,item,time\na,b,{time}\n")
    assert rows(load("table", tmp_path)[0]) == [("a", "b", seconds, None)]


def test_columns_are_named_by_options_and_order_is_time_without_one(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who;what\nb;x\na;y\n")
    with pytest.raises(
        UserError, match=r"no column is known as the user; name it with --user-col. There are who, what"
    ):
        load("table", tmp_path, file=tmp_path / "log.csv")
    found = load("table", tmp_path, file=tmp_path / "log.csv", user_col="who", item_col="what")[0]
    assert rows(found) == [("b", "x", 0, None), ("a", "y", 1, None)]
    with pytest.raises(UserError, match=r"no column 'whoo' \(--user-col\).*Did you mean 'who'"):
        load("table", tmp_path, file=tmp_path / "log.csv", user_col="whoo", item_col="what")


def test_tables_take_item_text_from_a_second_file(tmp_path: Path) -> None:
    folder = table(tmp_path / "raw")
    (tmp_path / "items.csv").write_text(
        'item_id,title,brand,categories\nb1,Big &amp; red,Acme,"Toys, Kites"\nb1,later,,\n'
    )
    _, items = load("table", folder, items=tmp_path / "items.csv")
    assert items.rows()[0] == ("b1", "b1", "Big & red", "", "Acme", ["Toys", "Kites"])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, "zstd"])
@pytest.mark.parametrize("block", [16, 100, 1 << 20])
def test_compression_and_block_size_change_nothing(pack: object, block: int, tmp_path: Path) -> None:
    import zstandard

    text = "".join(json.dumps(row) + "\n" for row in REVIEWS * 3).encode()
    compress = zstandard.ZstdCompressor().compress if pack == "zstd" else pack
    (tmp_path / "Toys.json").write_bytes(compress(text))  # type: ignore[operator]
    found = load_raw("amazon2018", tmp_path, block=block).interactions.table()
    assert rows(found, *CORE, "row") == [
        (row["reviewerID"], row["asin"], row["unixReviewTime"], row["overall"], place) for place, row in enumerate(REVIEWS * 3)
    ]  # fmt: skip


@pytest.mark.parametrize("block", [16, 1 << 20])
def test_bad_lines_are_skipped_and_kept(block: int, tmp_path: Path) -> None:
    good = [json.dumps(row) for row in REVIEWS]
    (tmp_path / "Toys.json").write_text(
        "\n".join([good[0], "{oops", "", good[1], '{"reviewerID": "U9"}', good[2]]) + "\n"
    )
    faults = Faults(skip=True)
    found = load_raw("amazon2018", tmp_path, faults=faults, block=block).interactions.table()
    assert rows(found, "item", "row") == [("B1", 0), ("B2", 1), ("B1", 2)]
    assert [(row["line"], row["text"]) for row in faults.rejected] == [(2, "{oops"), (5, '{"reviewerID": "U9"}')]
    with pytest.raises(UserError, match=r"Toys.json:5: .*bad line 2, more than --max-errors 1"):
        load_raw("amazon2018", tmp_path, faults=Faults(skip=True, most=1), block=block)


@pytest.mark.parametrize("block", [8, 1 << 20])
def test_bad_values_of_a_table_are_named(block: int, tmp_path: Path) -> None:
    text = 'user,item,time,rating\na,"b\nc",1,5\n\na,,2,5\na,b\na,b,4,many\na,b,5,nan\na,b,6,\n'
    (tmp_path / "log.csv").write_text(text)
    faults = Faults(skip=True)
    found = load_raw("table", tmp_path, faults=faults, block=block).interactions.table()
    assert rows(found) == [("a", "b\nc", 1, 5.0), ("a", "b", 6, None)]
    assert [(row["line"], row["reason"]) for row in faults.rejected] == [
        (5, "column 'item' is '', expected text"),
        (6, "2 values, expected 4 (user, item, time, rating)"),
        (7, "column 'rating' is 'many', expected a number"),
        (8, "column 'rating' is 'nan', expected a number"),
    ]


def test_a_bom_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbfuser,item,time\r\na,b,1\r\n")
    assert rows(load("table", tmp_path)[0]) == [("a", "b", 1, None)]
    (tmp_path / "log.csv").unlink()
    lines(tmp_path / "Toys.json", REVIEWS, zipped=False)
    (tmp_path / "Toys.json").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "Toys.json").read_bytes().replace(b"\n", b"\r\n")
    )
    assert len(load("amazon2018", tmp_path)[0]) == 3
