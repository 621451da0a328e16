"""Files as they are found in the wild: what they mean is kept, or they are refused; nothing is lost or made up unsaid."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from conftest import Finished
from raw_files import REVIEWS, amazon, amazon2014, lines, load, load_raw
from test_formats import rows

from ilrec_cli import artifacts
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.errors import UserError

Run = Callable[..., Finished]


def preprocess(ilrec: Run, raw: Path, *flags: object) -> Finished:
    return ilrec(
        "preprocess",
        "--dataset",
        "odd",
        "--work",
        raw.parent / "w",
        "--raw-dir",
        raw,
        "--user-k",
        0,
        "--item-k",
        0,
        *flags,
    )


def data(raw: Path) -> artifacts.Artifact:
    return artifacts.read(raw.parent / "w" / "odd" / "data", "data")


def test_minionerec_rows_without_times_are_chained(tmp_path: Path) -> None:
    """Histories cut to two items; titles from the info file."""
    sequences = {"1": [0, 1, 2, 3, 4, 1], "2": [3, 0, 4]}
    for split in ("train", "valid", "test"):
        text = "user_id,history_item_id,item_id,history_item_title,item_title\n"
        for user, items in sequences.items():
            ends = {"train": range(1, len(items) - 2), "valid": [len(items) - 2], "test": [len(items) - 1]}[split]
            for end in ends:
                history = items[max(0, end - 2) : end]
                text += f'{user},"{history}",{items[end]},"{[f"t{item}" for item in history]}",t{items[end]}\n'
        (tmp_path / split).mkdir()
        (tmp_path / split / "Office.csv").write_text(text)
    raw = load_raw("minionerec", tmp_path)
    found = raw.interactions.table().sort("user", "timestamp")
    for user, items in sequences.items():
        assert found.filter(pl.col("user") == user)["item"].to_list() == [str(item) for item in items]
    assert raw.ticks is None
    assert dict(raw.items.select("raw_id", "title").rows()) == {str(n): f"t{n}" for n in range(5)}


def test_a_quote_that_is_never_closed_is_no_bad_line(tmp_path: Path) -> None:
    text = "user,item,time\n" + "".join(f"u{n},i{n},{n}\n" for n in range(20))
    (tmp_path / "log.csv").write_text(text.replace("u3,", 'u3,"'))
    with pytest.raises(UserError, match=r"log.csv:5: a quote \(\"\) is opened in this line and never closed"):
        load_raw("table", tmp_path, faults=Faults(skip=True))


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_truncated_zstandard_is_refused(cut: float, tmp_path: Path) -> None:
    import zstandard

    text = "".join(json.dumps({**REVIEWS[0], "reviewText": str(n) * 50}) + "\n" for n in range(5000)).encode()
    frames = zstandard.ZstdCompressor().compress(text) + zstandard.ZstdCompressor().compress(text)
    (tmp_path / "Toys.json").write_bytes(frames)
    assert len(load("amazon2018", tmp_path)[0]) == 10_000
    (tmp_path / "Toys.json").write_bytes(frames[: int(cut * len(frames))])
    with pytest.raises(UserError, match="the zstandard file is truncated or corrupt"):
        load_raw("amazon2018", tmp_path, faults=Faults(skip=True))


@pytest.mark.parametrize("source", ["table", "recbole"])
def test_bytes_that_are_no_utf8_are_faults(source: str, tmp_path: Path) -> None:
    """Replaced by a mark, different names would become one user."""
    names = [f"Jos{letter}" for letter in "éè"]
    if source == "table":
        text = "user,item,time\n" + "".join(f"{name},i,{n}\n" for n, name in enumerate(names))
    else:
        text = "user_id:token\titem_id:token\n" + "".join(f"{name}\ti\n" for name in names)
    (tmp_path / ("log.csv" if source == "table" else "log.inter")).write_bytes(text.encode("latin-1"))
    faults = Faults(skip=True)
    assert len(load_raw(source, tmp_path, faults=faults).interactions) == 0
    assert [row["line"] for row in faults.rejected] == [2, 3]
    assert "is not valid UTF-8" in str(faults.rejected[0]["reason"])


@pytest.mark.parametrize("block", [24, 1 << 20])
def test_fractions_of_seconds_count(block: int, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\nu,c,100.5\nu,b,100.25\nu,a,100\n")
    found = load_raw("table", tmp_path, block=block)
    assert rows(found.interactions.table(), "item", "timestamp") == [
        ("c", 100_500_000),
        ("b", 100_250_000),
        ("a", 100_000_000),
    ]
    assert found.ticks == 1_000_000


@pytest.mark.parametrize(("scale", "ticks"), [(1, 1), (10**3, 10**3), (10**6, 10**6), (10**9, 10**9)])
def test_the_unit_of_whole_numbers_shows_in_their_size(scale: int, ticks: int, tmp_path: Path, ilrec: Run) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    days = [int(datetime(2016, month, 2).timestamp()) * scale + 1 for month in range(1, 13)]
    (raw / "log.csv").write_text("user,item,time\n" + "".join(f"u,i{n},{day}\n" for n, day in enumerate(days)))
    assert preprocess(ilrec, raw, "--since", "2016-07-01").code == 0
    assert data(raw).json("card.json")["ticks_per_second"] == ticks
    assert data(raw).table("interactions")["timestamp"].to_pylist() == days[6:]


def test_times_that_are_none_are_named_or_skipped(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,time\nu,a,2016-10-01 01:00:00\nu,b,2016-10-01 01:00:00 PM\nu,c,later\n"
    )
    with pytest.raises(
        UserError, match=r"log.csv:3: column 'time' is '2016-10-01 01:00:00 PM', expected a number or a date"
    ):
        load("table", tmp_path)
    faults = Faults(skip=True)
    assert len(load_raw("table", tmp_path, faults=faults).interactions) == 1
    assert [row["line"] for row in faults.rejected] == [3, 4]
    (tmp_path / "log.csv").rename(tmp_path / "old")
    lines(
        tmp_path / "log.jsonl",
        [{"user": "u", "item": "a", "time": 1.5}, {"user": "u", "item": "b", "time": "later"}],
        zipped=False,
    )
    with pytest.raises(UserError, match=r"log.jsonl:2: field 'time' is 'later', expected a number or a date"):
        load("table", tmp_path)


def test_data_without_times_say_so(tmp_path: Path, ilrec: Run) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "log.inter").write_text("user_id:token\titem_id:token\n" + "".join(f"u\ti{n}\n" for n in range(5)))
    assert preprocess(ilrec, raw).code == 0
    assert data(raw).table("sequences")["items"].to_pylist() == [[0, 1, 2, 3, 4]]
    found = json.loads(
        ilrec("data", "audit", "--dataset", "odd", "--work", tmp_path / "w", "--json").out.splitlines()[-1]
    )["findings"]
    assert found["test targets with the time of the item before"]["count"] == 0
    assert "have no times" in preprocess(ilrec, raw, "--since", "2016-01-01").one_line()
    assert "have no times" in preprocess(ilrec, raw, "--split", "time").one_line()


def test_text_files_belong_to_their_table(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\nu,a\n")
    (tmp_path / "catalog.items.csv").write_text("item,title\na,WRONG\n")
    assert load("table", tmp_path)[1]["title"].to_list() == [None]
    (tmp_path / "log.items.csv").write_text("item,title\na,right\n")
    assert load("table", tmp_path)[1]["title"].to_list() == ["right"]


def test_fields_of_json_may_turn_up_late(tmp_path: Path) -> None:
    lines(tmp_path / "log.jsonl", [{"user": "u", "item": "a"}, {"user": "u", "item": "b", "rating": 3.0}], zipped=False)
    assert rows(load("table", tmp_path)[0], "item", "rating") == [("a", None), ("b", 3.0)]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_size_of_blocks_changes_nothing(kind: str, tmp_path: Path) -> None:
    """Odd lines make a block be read slowly; its other lines must mean the same either way."""
    if kind == "csv":
        text = "user,item,time,rating\nu,a,1\nu,b,2,3\n" + "u,c,3,4\n" * 5 + "u,d,x,1\nu,,1,1\nu,e,4\n"
        (tmp_path / "log.csv").write_text(text)
        source = "table"
    else:
        ids = ['"a"', "7", "1.0", "true", '["a"]', '{"b": 1}', '"true"', '"1.0"', "null", '""']
        text = "".join(f'{{"reviewerID": {each}, "asin": "i", "overall": 5, "unixReviewTime": 1}}\n' for each in ids)
        (tmp_path / "Toys.json").write_text(text)
        source = "amazon2018"
    results = []
    for block in (8, 64, 1 << 20):
        faults = Faults(skip=True)
        found = rows(
            load_raw(source, tmp_path, faults=faults, block=block).interactions.table(),
            "user",
            "item",
            "timestamp",
            "rating",
            "row",
        )
        results.append((found, faults.rejected))
    assert results[0] == results[1] == results[2]
    assert results[0][1]


def test_reasons_are_the_same_every_time(tmp_path: Path) -> None:
    folder = amazon2014(tmp_path / "raw")
    (folder / "meta_Toys.json.gz").write_text("{'asin': open('x')}\n")
    faults = Faults(skip=True)
    load_raw("amazon2014", folder, faults=faults)
    assert "0x" not in str(faults.rejected[0]["reason"])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("rating", ["good", "bad"], "row 1: column 'rating' is 'good', expected a number"),
        ("time", ["soon", "later"], "is 'soon', expected a number or a date"),
        ("time", [[1], [2]], "holds List"),
        ("item", [["a"], ["b"]], "holds List"),
        ("user", [None, "u"], "row 1: column 'user' is None, expected text"),
        ("time", [2**64 - 1, 2**64 - 1], "row 1: column 'time' is 18446744073709551615, expected"),
    ],
)
def test_odd_columns_of_parquet(column: str, values: list[object], message: str, tmp_path: Path) -> None:
    table = {"user": ["u", "u"], "item": ["a", "b"], "time": [1, 2], "rating": [1.0, 2.0]} | {column: values}
    overrides = {"time": pl.UInt64} if values[0] == 2**64 - 1 else {}
    pl.DataFrame(table, schema_overrides=overrides).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(UserError, match=message):
        load("table", tmp_path)


def test_dates_of_parquet_are_seconds(tmp_path: Path) -> None:
    when = [datetime(2016, 10, 1), datetime(2016, 10, 1, 0, 0, 1)]
    pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "time": when}).write_parquet(tmp_path / "log.parquet")
    assert rows(load("table", tmp_path)[0], "timestamp") == [(1475280000,), (1475280001,)]


def test_original_ids_of_some_items_only_must_not_collide(tmp_path: Path) -> None:
    (tmp_path / "Toys.inter.json").write_text('{"0": [1, 2, 3]}')
    (tmp_path / "Toys.item2id").write_text("2\t1\n")
    with pytest.raises(UserError, match=r"Toys.item2id: '2' is an original id here and the number of another"):
        load("lcrec", tmp_path)


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.txt.csv"])
def test_the_columns_flags_choose_the_reader(name: str, tmp_path: Path, ilrec: Run) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    mark = "\t" if name.endswith("tsv") else ","
    (raw / name).write_text(
        "".join(mark.join(row) + "\n" for row in (("who", "what", "when"), *(("u", f"i{n}", str(n)) for n in range(4))))
    )
    assert "no source recognises them" in preprocess(ilrec, raw).one_line()
    assert preprocess(ilrec, raw, "--user-col", "who", "--item-col", "what", "--time-col", "when").code == 0


@pytest.mark.parametrize(
    "header",
    ["user_id,parent_asin,rating,timestamp", "user_id;item_id;rating;timestamp", "user_id, item_id, rating, timestamp"],
)
def test_headers_of_other_tools(header: str, tmp_path: Path, ilrec: Run) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    mark = ";" if ";" in header else ","
    (raw / "log.csv").write_text(
        header + "\n" + "".join(mark.join(("u", f"i{n}", "5", str(n))) + "\n" for n in range(4))
    )
    assert preprocess(ilrec, raw).code == 0


def test_an_edition_chooses_between_two(tmp_path: Path, ilrec: Run) -> None:
    raw = amazon(tmp_path / "raw")
    lines(raw / "reviews_Toys_5.json.gz", [{**row, "helpful": [0, 0]} for row in REVIEWS])
    for edition in ("2014", "2018"):
        assert preprocess(ilrec, raw, "--edition", edition).code == 0
        assert data(raw).json("card.json")["source"] == f"amazon{edition}"


def test_lcrec_files_of_users_are_none_of_amazons(tmp_path: Path, ilrec: Run) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "odd.inter.json").write_text('{"0": [1, 2, 3]}')
    (raw / "odd.user.json").write_text('{"user_explicit_preference": {"0": ["' + "x" * (2 << 20) + '"]}}')
    assert preprocess(ilrec, raw).code == 0
    assert data(raw).json("card.json")["source"] == "lcrec"


def test_what_is_left_out_is_counted(tmp_path: Path, ilrec: Run) -> None:
    raw = amazon(tmp_path / "raw")
    assert preprocess(ilrec, raw, "--limit-users", 1).code == 0
    kept = len(data(raw).table("interactions"))
    left_out = data(raw).json("card.json")["dropped"]["interactions of users that --limit-users left out"]
    assert kept + left_out == 3
    assert left_out > 0
    done = preprocess(ilrec, raw, "--max-text", 7)
    card = data(raw).json("card.json")
    assert card["while_reading"] == {
        "descriptions of items without interactions": 1, "repeated descriptions of an item": 1,
        "texts cut to --max-text": 2, "texts made plain": 2,
    }  # fmt: skip
    assert "while reading: 1 repeated descriptions of an item" in done.out
    titles = dict(zip(*(data(raw).table("items")[name].to_pylist() for name in ("raw_id", "title")), strict=True))
    assert titles == {"B1": "Tom & J", "B2": ""}
    assert preprocess(ilrec, raw, "--no-clean").code == 0
    assert "Tom &amp; Jerry" in data(raw).table("items")["title"].to_pylist()


def test_conversions_keep_commas_ratings_entities_and_splits(tmp_path: Path, ilrec: Run) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    rating = [1234567, 4.1, 3, 2]
    splits = ["", "train", "valid", "test"]
    (raw / "log.csv").write_text(
        "user,item,time,rating,split\n" + "".join(f"u,i{n},{n},{rating[n]},{splits[n]}\n" for n in range(4))
    )
    text = '"[""Arts, Crafts & Sewing"", ""Guitars""]"'
    (raw / "log.items.csv").write_text(f"item,title,categories\ni0,a &amp;amp; b,{text}\n")
    assert preprocess(ilrec, raw, "-o", "split_col=split").code == 0
    before = data(raw)
    assert before.table("items")["title"][0].as_py() == "a &amp; b"
    for to in ("csv", "recbole", "lcrec"):
        assert (
            ilrec(
                "data", "convert", "--dataset", "odd", "--work", tmp_path / "w", "--to", to, "--output", tmp_path / to
            ).code
            == 0
        )
        flags = ["-o", "split_col=split"] if to == "csv" else []
        again = ilrec("preprocess", "--dataset", "odd", "--work", tmp_path / f"w-{to}", "--raw-dir", tmp_path / to,
                      "--user-k", 0, "--item-k", 0, "--repeats", "keep", *flags)  # fmt: skip
        assert again.code == 0, again.err
        after = artifacts.read(tmp_path / f"w-{to}" / "odd" / "data", "data")
        assert (
            after.table("items")
            .select(["raw_id", "title", "categories"])
            .equals(before.table("items").select(["raw_id", "title", "categories"]))
        )
        if to != "lcrec":
            assert after.table("interactions").equals(before.table("interactions"))
        if to == "csv":
            assert after.table("splits").equals(before.table("splits"))
            assert after.table("users").equals(before.table("users"))


@pytest.mark.parametrize(
    ("value", "names"),
    [(5, ["5"]), ({"a": 1}, ["{'a': 1}"]), ([1, None, "x"], ["1", "x"]), (None, []), (False, ["False"])],
)
def test_categories_of_any_type(value: object, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "Toys.inter.json").write_text('{"0": [1, 2, 3]}')
    (tmp_path / "Toys.item.json").write_text(json.dumps({"1": {"title": 7, "categories": value}}))
    items = load("lcrec", tmp_path)[1]
    assert items.filter(pl.col("raw_id") == "1").select("title", "categories").rows() == [("7", names)]
