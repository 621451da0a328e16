"""preprocess against pandas and a json loop, in interleaved pairs; memory and growth up to 50 million rows.

    python benchmarks/preprocess.py [--rows 5000000] [--pairs 5] [--large]

Every measured run is a process of its own, so that its peak memory is its own. Needs pandas (not a dependency).
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import peak_gib, write

BETA = 0.7  # popularity of item r is about r^-BETA


def world(rows: int) -> Any:
    """(user, item, time): half a dozen interactions a user, items by popularity, times over ten years."""
    import numpy as np

    rng = np.random.default_rng(0)
    users, items = rows // 6 + 1, max(rows // 50, 10)
    item = (items * rng.random(rows) ** (1 / (1 - BETA))).astype(np.int64)
    return rng.integers(users, size=rows), item, rng.integers(1_200_000_000, 1_540_000_000, size=rows)


def core_ours(folder: Path) -> float:
    import polars as pl

    from ilrec_cli.sequences import k_core

    table = pl.read_parquet(folder / "integers.parquet")
    started = time.perf_counter()
    print(len(k_core(table, 5, 5)))
    return time.perf_counter() - started


def core_pandas(folder: Path) -> float:
    """The fastest of pandas' ways seen: counts by value_counts on integer columns, mapped back."""
    import pandas as pd

    table = pd.read_parquet(folder / "integers.parquet")
    started = time.perf_counter()
    while True:
        users, items = table["user"].value_counts(), table["item"].value_counts()
        keep = table["user"].map(users).ge(5) & table["item"].map(items).ge(5)
        if keep.all():
            break
        table = table[keep]
    print(len(table))
    return time.perf_counter() - started


def csv_ours(folder: Path, *flags: str) -> float:
    from ilrec_cli import cli

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as work:
        raw = str(folder / "csv")
        result = cli.invoke(["preprocess", "--dataset", "bench", "--work", work, "--raw-dir", raw, "--quiet", *flags])
    print(result["interactions"])
    return time.perf_counter() - started


def csv_in_files(folder: Path) -> float:
    """The same with all interactions in files."""
    return csv_ours(folder, "--memory-mb", "0")


def csv_pandas(folder: Path) -> float:
    """The same steps: read, first of repeats, 5-core, numbers by sorted id, order, splits, Parquet."""
    import pandas as pd

    started = time.perf_counter()
    table = pd.read_csv(folder / "csv" / "log.csv", engine="pyarrow")
    table["row"] = range(len(table))
    table = table.sort_values(["user_id", "timestamp", "row"]).drop_duplicates(["user_id", "item_id"])
    while True:
        users, items = table["user_id"].value_counts(), table["item_id"].value_counts()
        keep = table["user_id"].map(users).ge(5) & table["item_id"].map(items).ge(5)
        if keep.all():
            break
        table = table[keep]
    table["user"] = table["user_id"].astype("category").cat.codes
    table["item"] = table["item_id"].astype("category").cat.codes
    table = table.sort_values(["user", "timestamp", "row"])
    left = table.groupby("user").cumcount(ascending=False)
    with tempfile.TemporaryDirectory() as out:
        table[["user", "item", "timestamp"]].to_parquet(Path(out) / "interactions.parquet")
        table.groupby("user")["item"].agg(list).to_frame().to_parquet(Path(out) / "sequences.parquet")
        left.map({0: "test", 1: "valid"}).fillna("train").to_frame().to_parquet(Path(out) / "splits.parquet")
    print(len(table))
    return time.perf_counter() - started


def reviews_ours(folder: Path) -> float:
    from ilrec_cli import plugins
    from ilrec_cli.datasets._raw import Reading

    source = plugins.load("datasets", "amazon2018")
    started = time.perf_counter()
    raw = plugins.part(source, "load").load(folder / "reviews", "bench", source.Config(), Reading())
    print(len(raw.interactions))
    return time.perf_counter() - started


def reviews_loop(folder: Path) -> float:
    started = time.perf_counter()
    rows = []
    with gzip.open(folder / "reviews" / "bench_5.json.gz", "rb") as file:
        for line in file:
            row = json.loads(line)
            rows.append((row["reviewerID"], row["asin"], row["unixReviewTime"], row["overall"]))
    print(len(rows))
    return time.perf_counter() - started


def reviews_gunzip(folder: Path) -> float:
    """Nothing but zlib's decompression: what a reader on one core cannot beat."""
    started = time.perf_counter()
    with gzip.open(folder / "reviews" / "bench_5.json.gz", "rb") as file:
        size = 0
        while data := file.read(1 << 22):
            size += len(data)
    print(size)
    return time.perf_counter() - started


RUNS = {
    run.__name__: run
    for run in (core_ours, core_pandas, csv_ours, csv_in_files, csv_pandas, reviews_ours, reviews_loop, reviews_gunzip)
}
PAIRS = {
    "core": ("core_pandas", "core_ours"),
    "csv": ("csv_pandas", "csv_ours"),
    "reviews": ("reviews_loop", "reviews_ours"),
}


def measured(name: str, folder: Path) -> tuple[float, float, str]:
    """(seconds, peak GiB, what it printed) of one run in a process of its own."""
    command = [sys.executable, __file__, "--run", name, "--folder", str(folder)]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    seconds, peak = out[-1].split()
    return float(seconds), float(peak), out[0]


def make_files(folder: Path, rows: int, reviews: int) -> None:
    import polars as pl

    user, item, when = world(rows)
    table = pl.DataFrame({"user": user, "item": item, "timestamp": when})
    table.write_parquet(folder / "integers.parquet")
    (folder / "csv").mkdir()
    named = table.select(
        user_id=pl.format("A{}", pl.col("user").cast(pl.String).str.zfill(13)),
        item_id=pl.format("B{}", pl.col("item").cast(pl.String).str.zfill(9)),
        rating=(pl.col("item") % 5 + 1).cast(pl.Float64), timestamp="timestamp",
    )  # fmt: skip
    named.write_csv(folder / "csv" / "log.csv")
    if reviews:
        (folder / "reviews").mkdir()
        with gzip.open(folder / "reviews" / "bench_5.json.gz", "wb", compresslevel=6) as file:
            for place, row in enumerate(named.head(reviews).iter_rows()):
                file.write(json.dumps(review(place, *row)).encode() + b"\n")


def review(place: int, user: str, item: str, rating: float, when: int) -> dict[str, Any]:
    """A line of about 600 bytes, in the 2018 shape."""
    words = " ".join(f"word{(place * 7 + n * n) % 4999}" for n in range(45))
    return {"overall": rating, "verified": True, "reviewTime": "09 1, 2016", "reviewerID": user, "asin": item,
            "style": {"Format:": " Kindle"}, "reviewerName": f"N. {place}", "reviewText": words, "summary": words[:40],
            "unixReviewTime": when}  # fmt: skip


def compare(folder: Path, pairs: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for title, names in PAIRS.items():
        runs: dict[str, list[tuple[float, float, str]]] = {name: [] for name in names}
        for _ in range(pairs):
            for name in names:
                runs[name].append(measured(name, folder))
        results = {run[2] for each in runs.values() for run in each}
        if len(results) != 1:
            raise RuntimeError(f"{title}: the two do not agree: {results}")
        seconds = {name: statistics.median(run[0] for run in each) for name, each in runs.items()}
        peaks = {name: max(run[1] for run in each) for name, each in runs.items()}
        found[title] = {"seconds": seconds, "peak_gib": peaks, "times_as_fast": seconds[names[0]] / seconds[names[1]]}
        print(title, found[title], flush=True)
    found["gunzip_alone_seconds"] = measured("reviews_gunzip", folder)[0]
    return found


def growth(sizes: tuple[int, int]) -> dict[str, Any]:
    """CSV to artifact at two sizes: exponent of time and of memory; the larger one in files too. The smaller size: the median of three runs."""
    cells: dict[str, Any] = {}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            make_files(Path(folder), rows, 0)
            for name in ("csv_ours", "csv_in_files") if rows == sizes[1] else ("csv_ours",):
                runs = [measured(name, Path(folder)) for _ in range(3 if rows == sizes[0] else 1)]
                key = str(rows) if name == "csv_ours" else f"{rows} in files"
                cells[key] = {
                    "seconds": statistics.median(run[0] for run in runs),
                    "peak_gib": max(run[1] for run in runs),
                }
                print(key, cells[key], flush=True)
    small, large = (cells[str(rows)] for rows in sizes)
    ratio = math.log(sizes[1] / sizes[0])
    return {"cells": cells, "exponents": {key: math.log(large[key] / small[key]) / ratio for key in small}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--reviews", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--run", choices=RUNS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.run:
        seconds = RUNS[arguments.run](arguments.folder)
        print(seconds, peak_gib())
    elif arguments.large:
        print(write("preprocess-growth", growth((arguments.rows, 10 * arguments.rows))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            make_files(Path(folder), arguments.rows, arguments.reviews)
            print(
                write(
                    "preprocess",
                    {
                        "rows": arguments.rows,
                        "review_lines": arguments.reviews,
                        **compare(Path(folder), arguments.pairs),
                    },
                )
            )


if __name__ == "__main__":
    main()
