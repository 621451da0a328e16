"""The preprocess command: filters, splits, candidates, faults, and that nothing but the input decides the bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished, tree

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact

Run = Callable[..., Finished]
DAY = 86_400


def log(folder: Path, users: int = 30, seed: int = 0) -> Path:
    """A CSV of users with 3 to 12 items on days from 2016-01-01 on, ratings 1 to 5, some repeats and ties."""
    rng = np.random.default_rng(seed)
    start = int(datetime(2016, 1, 1, tzinfo=UTC).timestamp())
    lines = ["user_id,item_id,rating,timestamp"]
    for user in range(users):
        for _ in range(int(rng.integers(3, 13))):
            time = start + int(rng.integers(365)) * DAY
            lines.append(f"u{user},i{int(rng.integers(40)):02},{int(rng.integers(1, 6))},{time}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return log(tmp_path / "raw")


def preprocess(ilrec: Run, raw: Path, *flags: object, core: int = 0) -> Finished:
    return ilrec(
        "preprocess",
        "--dataset",
        "toy",
        "--work",
        raw.parent / "work",
        "--raw-dir",
        raw,
        "--user-k",
        core,
        "--item-k",
        core,
        *flags,
    )


def data(raw: Path) -> Artifact:
    return artifacts.read(raw.parent / "work" / "toy" / "data", "data")


def rows(raw: Path) -> list[tuple[str, str, float, int]]:
    """(user, item, rating, time) of the file."""
    lines = (raw / "log.csv").read_text().splitlines()[1:]
    return [(user, item, float(rating), int(time)) for user, item, rating, time in (line.split(",") for line in lines)]


def kept(raw: Path) -> list[tuple[str, str, float, int]]:
    found = data(raw)
    users, items = (found.table(name)["raw_id"].to_pylist() for name in ("users", "items"))
    table = found.table("interactions").to_pydict()
    return [
        (users[u], items[i], r, t)
        for u, i, r, t in zip(table["user"], table["item"], table["rating"], table["timestamp"], strict=True)
    ]


def test_filters_keep_what_a_loop_keeps(raw: Path, ilrec: Run) -> None:
    flags = ["--min-rating", 2, "--since", "2016-02-01", "--until", "2016-11-01", "--repeats", "first"]
    assert preprocess(ilrec, raw, *flags).code == 0
    low, high = (int(datetime(2016, month, 1, tzinfo=UTC).timestamp()) for month in (2, 11))
    expected, seen = [], set()
    every = rows(raw)
    for number in sorted(range(len(every)), key=lambda n: (every[n][0], every[n][3], n)):
        user, item, rating, time = every[number]
        if rating >= 2 and low <= time < high and (user, item) not in seen:
            seen.add((user, item))
            expected.append(every[number])
    assert kept(raw) == expected
    dropped = data(raw).json("card.json")["dropped"]
    assert sum(count for what, count in dropped.items() if "interactions" in what and "items" not in what) == len(
        every
    ) - len(expected)
    assert dropped["interactions with a rating below 2, or none"] == sum(rating < 2 for _, _, rating, _ in every)


def test_a_filter_that_leaves_nothing_says_what_each_dropped(raw: Path, ilrec: Run) -> None:
    line = preprocess(ilrec, raw, "--min-rating", 2, "--since", "2030-01-01").one_line()
    assert "nothing is left" in line
    assert "interactions before 2030-01-01" in line
    assert "expected a date such as 2016-10-01" in preprocess(ilrec, raw, "--until", "soon").one_line()
    assert tree(raw.parent / "work") == [] if (raw.parent / "work").exists() else True


@pytest.mark.parametrize("split", ["leave-one-out", "ratio", "time"])
def test_splits_cover_every_interaction_once(split: str, raw: Path, ilrec: Run) -> None:
    assert preprocess(ilrec, raw, "--split", split).code == 0
    found = data(raw)
    lengths = [len(row) for row in found.table("sequences")["items"].to_pylist()]
    events = found.table("splits").to_pydict()
    assert sorted(zip(events["user"], events["end"], strict=True)) == [
        (u, e) for u, n in enumerate(lengths) for e in range(1, n)
    ]
    users = found.table("users").to_pydict()
    for user, end, name in zip(events["user"], events["end"], events["split"], strict=True):
        assert (name == "train") == (users["train_from"][user] <= end < users["train_to"][user])


def test_a_global_time_split_has_one_clock_and_several_events_a_user(raw: Path, ilrec: Run) -> None:
    bounds = [int(datetime(2016, month, 1, tzinfo=UTC).timestamp()) for month in (10, 11)]
    assert preprocess(ilrec, raw, "--split", "time", "--split-at", "2016-10-01,2016-11-01").code == 0
    found = data(raw)
    assert found.json("card.json")["split"] == {"rule": "time", "valid_from": bounds[0], "test_from": bounds[1]}
    time = found.table("interactions")["timestamp"].to_numpy()
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in found.table("sequences")["items"].to_pylist()])])
    events = found.table("splits").to_pydict()
    for user, end, name in zip(events["user"], events["end"], events["split"], strict=True):
        at = time[offsets[user] + end]
        assert name == ("train" if at < bounds[0] else "valid" if at < bounds[1] else "test")
    tests = [user for user, name in zip(events["user"], events["split"], strict=True) if name == "test"]
    assert len(tests) > len(set(tests)), "somebody has several"
    assert (
        "expected the start of validation before"
        in preprocess(ilrec, raw, "--split", "time", "--split-at", "2016-11-01,2016-10-01").one_line()
    )
    assert "three shares" in preprocess(ilrec, raw, "--split", "ratio", "--split-ratio", "8,1").one_line()


@pytest.mark.parametrize("split", ["ratio", "time"])
def test_every_stage_works_on_several_test_events_a_user(split: str, raw: Path, ilrec: Run) -> None:
    work = raw.parent / "work"
    assert preprocess(ilrec, raw, "--split", split).code == 0
    common = ["--dataset", "toy", "--work", work]
    trained = ilrec("train-cf", *common, "--epochs", 2, "-o", "hidden_size=8", "--name", "s", "--json")
    assert trained.code == 0, trained.err
    evaluated = json.loads(ilrec("evaluate", *common, "--run", "s", "--json").out.splitlines()[-1])
    events = data(raw).table("splits")["split"].to_pylist()
    assert evaluated["events"] == events.count("test")


def test_candidates_stand_with_every_held_out_target(raw: Path, ilrec: Run) -> None:
    assert preprocess(ilrec, raw, "--candidates", 5).code == 0
    found = data(raw)
    sets = found.table("candidates").to_pydict()
    events = found.table("splits").to_pydict()
    sequences = found.table("sequences")["items"].to_pylist()
    assert sets["event"] == [
        event for event, name in zip(events["event"], events["split"], strict=True) if name != "train"
    ]
    for event, items in zip(sets["event"], sets["items"], strict=True):
        own = sequences[events["user"][event]]
        assert len(set(items)) == 6
        assert set(items) & set(own) == {own[events["end"][event]]}
    digest = found.digest
    assert preprocess(ilrec, raw, "--candidates", 5, "--seed", 1).code == 0
    assert data(raw).digest != digest
    assert "a user leaves only" in preprocess(ilrec, raw, "--candidates", 39).one_line()


def test_skipped_lines_are_counted_and_kept(raw: Path, ilrec: Run) -> None:
    with (raw / "log.csv").open("a") as file:
        file.write("broken\nu1,i1,many,5\n")
    lines = len((raw / "log.csv").read_text().splitlines())
    first = preprocess(ilrec, raw).one_line()
    assert f"log.csv:{lines - 1}: 1 values, expected 4" in first
    assert "--on-error skip" in first
    assert "more than --max-errors 1" in preprocess(ilrec, raw, "--on-error", "skip", "--max-errors", 1).one_line()
    done = preprocess(ilrec, raw, "--on-error", "skip")
    assert "dropped: 2 lines that could not be read" in done.out
    rejected = [json.loads(line) for line in (data(raw).path / "rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["text"]) for row in rejected] == [(lines - 1, "broken"), (lines, "u1,i1,many,5")]


def test_nothing_but_the_input_decides_the_bytes(tmp_path: Path) -> None:
    """Hash seed, threads and block size."""
    raw = log(tmp_path / "raw", users=400)
    digests = set()
    for number, (hash_seed, threads, block) in enumerate(
        [("0", "1", "1"), ("1", "2", "32"), ("random", "1", "32"), ("2", "2", "1")]
    ):
        command = [sys.executable, "-m", "ilrec_cli", "preprocess", "--dataset", "toy", "--work", str(tmp_path / f"w{number}"),
                   "--raw-dir", str(raw), "--block-mb", block, "--candidates", "3", "--json", "--quiet"]  # fmt: skip
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "POLARS_MAX_THREADS": threads}
        out = subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout
        digests.add(json.loads(out)["digest"])
    assert len(digests) == 1


def test_a_known_dataset_is_compared_with_the_published_counts(tmp_path: Path, ilrec: Run) -> None:
    raw = log(tmp_path / "raw")
    done = ilrec(
        "preprocess",
        "--dataset",
        "Instruments",
        "--work",
        tmp_path / "work",
        "--raw-dir",
        raw,
        "--user-k",
        0,
        "--item-k",
        0,
    )
    assert "published: other counts: 24,772 users, 9,922 items, 206,153 interactions" in done.out
    card = artifacts.read(tmp_path / "work" / "Instruments" / "data", "data").json("card.json")
    assert card["published"]["same"] is False


def test_a_known_dataset_is_downloaded_where_nothing_is(
    tmp_path: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def fetch(remotes: list[object], folder: Path, *_: object) -> None:
        asked.extend((remote.name, remote.urls) for remote in remotes)  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        review = {"reviewerID": "u", "asin": "i", "overall": 5.0, "unixReviewTime": 1}
        (folder / "Musical_Instruments_5.json").write_text(
            "".join(json.dumps(review | {"asin": f"i{n}"}) + "\n" for n in range(4))
        )

    monkeypatch.setattr("ilrec_cli.datasets._fetch.fetch", fetch)
    common = ["preprocess", "--dataset", "Instruments", "--work", tmp_path, "--user-k", 1, "--item-k", 1]
    assert ilrec(*common).code == 0
    assert [name for name, _ in asked] == ["Musical_Instruments_5.json.gz", "meta_Musical_Instruments.json.gz"]
    assert all(url.startswith("https://") and url.endswith(name) for name, urls in asked for url in urls)


def test_column_flags_are_for_plain_tables(raw: Path, ilrec: Run) -> None:
    assert preprocess(ilrec, raw, "--user-col", "user_id", "--time-col", "timestamp").code == 0
    assert "no column 'who'" in preprocess(ilrec, raw, "--user-col", "who").one_line()
    line = ilrec(
        "preprocess", "--dataset", "t", "--work", raw.parent / "w", "--source", "synthetic", "--user-col", "x"
    ).one_line()
    assert "--user-col: synthetic files have fixed columns" in line


def test_short_names_are_in_the_help_and_every_source_in_the_documents() -> None:
    from ilrec_cli import cli, config, plugins
    from ilrec_cli.datasets import _names

    edition = next(field for field in config.fields(cli.COMMANDS["preprocess"][0]) if field.name == "edition")
    for short in _names.ALIASES:
        assert short in edition.help or f"{short}s" in edition.help, short
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    for name in plugins.names("datasets"):
        assert f"| `{name}` |" in page
