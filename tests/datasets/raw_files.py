"""Raw files of every source, written from its documented format, and how tests read them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl

from ilrec_cli import plugins
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.datasets._raw import Raw, Reading

REVIEWS = [
    {
        "overall": 5.0,
        "verified": True,
        "reviewerID": "U2",
        "asin": "B1",
        "unixReviewTime": 200,
        "style": {"Size:": " 7 oz"},
    },
    {"overall": 4, "reviewerID": "U1", "asin": "B2", "unixReviewTime": 100, "reviewText": "line\nbreak"},
    {"overall": 1.5, "reviewerID": "U1", "asin": "B1", "unixReviewTime": 100},
]
METADATA = [
    {
        "asin": "B1",
        "title": "Tom &amp; Jerry",
        "description": ["<b>Fun</b>", "for all"],
        "brand": "A",
        "category": ["Toys", "Games"],
    },
    {"asin": "B1", "title": "a later duplicate"},
    {"asin": "B3", "title": "never bought", "description": "text as a string"},
]


def lines(path: Path, rows: list[Any], *, zipped: bool = True) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return path


def load(name: str, folder: Path, **options: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    raw = load_raw(name, folder, **options)
    return raw.interactions.table(), raw.items


def load_raw(name: str, folder: Path, *, faults: Faults | None = None, block: int = 1 << 20, **options: Any) -> Raw:
    source = plugins.load("datasets", name)
    reading = Reading(faults or Faults(), block)
    return plugins.part(source, "load").load(folder, "Toys", source.Config(**options), reading)


def amazon(folder: Path) -> Path:
    folder.mkdir()
    lines(folder / "Toys_5.json.gz", REVIEWS)
    lines(folder / "meta_Toys.json", METADATA, zipped=False)  # told apart by content, gzip or not
    return folder


def lcrec(folder: Path) -> Path:
    folder.mkdir()
    (folder / "Toys.inter.json").write_text(json.dumps({"0": [1, 0, 1], "1": [0, 2]}))
    texts = {
        "0": {"title": "T0", "description": "['one', 'two']", "brand": "B", "categories": "x,y"},
        "1": {},
        "7": {"title": "T7"},
    }
    (folder / "Toys.item.json").write_text(json.dumps(texts))
    return folder


def generated(folder: Path) -> Path:
    return folder


def amazon2014(folder: Path) -> Path:
    folder.mkdir()
    lines(folder / "reviews_Toys_5.json.gz", [{**row, "helpful": [0, 0]} for row in REVIEWS])
    metadata = [
        {"asin": "B1", "title": "It's a game", "brand": "A", "categories": [["Toys", "Games"], ["Toys", "Gifts"]]},
        {"asin": "B3", "title": "never bought"},
    ]
    (folder / "meta_Toys.json.gz").write_bytes(gzip.compress("".join(f"{row!r}\n" for row in metadata).encode()))
    return folder


def amazon2023(folder: Path) -> Path:
    folder.mkdir()
    reviews = [
        {
            "rating": 5.0,
            "title": "Nice",
            "asin": "V1",
            "parent_asin": "B1",
            "user_id": "U2",
            "timestamp": 1600000000123,
        },
        {"rating": 4.0, "title": "Ok", "asin": "V2", "parent_asin": "B1", "user_id": "U1", "timestamp": 1500000000000},
    ]
    lines(folder / "Toys.jsonl.gz", reviews)
    metadata = [
        {"parent_asin": "B1", "title": "Kite", "store": "Acme", "description": ["Red", "big"], "categories": ["Toys"]}
    ]
    lines(folder / "meta_Toys.jsonl.gz", metadata)
    return folder


def recbole(folder: Path) -> Path:
    folder.mkdir()
    (folder / "toys.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu2\tb1\t5.0\t200\nu1\tb2\t4\t100.0\nu1\tb1\t1.5\t101\n"
    )
    (folder / "toys.item").write_text(
        'item_id:token\ttitle:token_seq\tcategories:token_seq\nb1\tBig "Kite"\tToys, Kites\nb9\tNo\tNo\n'
    )
    return folder


def minionerec(folder: Path) -> Path:
    """Histories of at most two items: user 1 bought 0, 1, 2, 3 and user 2 bought 2, 0."""
    header = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_asin,item_asin,history_rating,rating,history_timestamp,timestamp"
    rows = {
        "train": [
            "1,['Zero'],\"One, 1\",[0],1,['A0'],A1,[5.0],4.0,[10],11",
            "2,['Two'],Zero,[2],0,['A2'],A0,[1.0],2.0,[10],12",
        ],
        "valid": ['1,"[\'Zero\', \'One, 1\']",Two,"[0, 1]",2,"[\'A0\', \'A1\']",A2,"[5.0, 4.0]",3.0,"[10, 11]",20'],
        "test": ['1,"[\'One, 1\', \'Two\']",Three,"[1, 2]",3,"[\'A1\', \'A2\']",A3,"[4.0, 3.0]",3.0,"[11, 20]",30'],
    }
    for split, lines_ in rows.items():
        (folder / split).mkdir(parents=True)
        (folder / split / "Toys_5_2016-10.csv").write_text("\n".join([header, *lines_]) + "\n")
    return folder


def candidates(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"historyList": "Boris::Fever Ray", "itemList": ["Otis", "Hope", "Anna"], "trueSelection": "Hope"}]
    for split in ("train", "val", "test"):
        (folder / f"Toys-{split}.json").write_text(json.dumps(rows, indent=4))
    return folder


def table(folder: Path) -> Path:
    folder.mkdir()
    (folder / "log.csv").write_text(
        'user_id,item_id,rating,timestamp,note\nu2,b1,5,200,"a, b"\nu1,b2,,100,\nu1,b1,1.5,101,"two\nlines"\n'
    )
    return folder


SOURCES = {
    "amazon2014": amazon2014, "amazon2018": amazon, "amazon2023": amazon2023, "candidates": candidates, "lcrec": lcrec,
    "minionerec": minionerec, "recbole": recbole, "synthetic": generated, "table": table,
}  # fmt: skip
