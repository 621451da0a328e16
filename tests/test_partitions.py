"""Logs in many parts, in memory or in files: the tables are those of one part, and nothing stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Finished, tree
from hypothesis import given
from hypothesis import strategies as st
from test_preprocess import data, log, preprocess

from ilrec_cli.datasets import _log
from ilrec_cli.spill import Spill
from ilrec_cli.stages import _partitions

Run = Callable[..., Finished]
TABLES = ("interactions", "users", "items", "sequences", "splits")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of some hundred interactions comes in a dozen parts, and is put in order in as many."""
    monkeypatch.setattr(_log, "PIECE", 30)
    monkeypatch.setattr(_partitions, "PART", 40)


def tables(raw: Path) -> dict[str, list[dict[str, object]]]:
    return {name: data(raw).table(name).to_pylist() for name in TABLES}


@pytest.mark.parametrize("memory", [0, 4096])
@pytest.mark.parametrize("flags", [
    [], ["--split", "time"], ["--split", "ratio", "--limit-users", 12], ["--repeats", "first", "--min-rating", 2],
])  # fmt: skip
def test_many_parts_give_the_tables_of_one(
    flags: list[object], memory: int, raw_pair: tuple[Path, Path], ilrec: Run, request: pytest.FixtureRequest
) -> None:
    whole, parts = raw_pair
    assert preprocess(ilrec, whole, *flags, "--block-mb", 1, core=3).code == 0
    expected = tables(whole)
    request.getfixturevalue("small_parts")
    assert preprocess(ilrec, parts, *flags, "--block-mb", 1, "--memory-mb", memory, core=3).code == 0
    assert tables(parts) == expected
    assert len(expected["users"]) >= 12
    assert not [name for name in tree(parts.parent / "work") if ".log" in name]


@pytest.fixture
def raw_pair(tmp_path: Path) -> tuple[Path, Path]:
    return log(tmp_path / "whole" / "raw", users=60), log(tmp_path / "parts" / "raw", users=60)


def test_candidates_are_drawn_alike_with_and_without_files(tmp_path: Path, ilrec: Run, small_parts: None) -> None:
    sets = []
    for memory in (0, 4096):
        raw = log(tmp_path / str(memory) / "raw", users=60)
        assert preprocess(ilrec, raw, "--candidates", 4, "--memory-mb", memory).code == 0
        sets.append((data(raw).digest, data(raw).table("candidates").to_pylist()))
    assert sets[0] == sets[1]
    found = data(raw)
    events = {row["event"]: row for row in found.table("splits").to_pylist()}
    sequences = found.table("sequences")["items"].to_pylist()
    assert len(sets[0][1]) == sum(row["split"] != "train" for row in events.values())
    for row in sets[0][1]:
        event = events[row["event"]]
        target, seen = sequences[event["user"]][event["end"]], set(sequences[event["user"]])
        assert len(set(row["items"])) == 5
        assert set(row["items"]) & seen == {target}


def test_a_failure_leaves_no_files(tmp_path: Path, ilrec: Run, small_parts: None) -> None:
    raw = log(tmp_path / "raw", users=60)
    assert "nothing is left" in preprocess(ilrec, raw, "--memory-mb", 0, core=30).one_line()
    assert "negatives asked for" in preprocess(ilrec, raw, "--memory-mb", 0, "--candidates", 40).one_line()
    assert not (tmp_path / "work").exists() or tree(tmp_path / "work") == []


@pytest.mark.parametrize("memory", [0, 4096])
def test_what_a_killed_run_left_goes_with_the_next(memory: int, tmp_path: Path, ilrec: Run, small_parts: None) -> None:
    raw = log(tmp_path / "raw", users=60)
    left = tmp_path / "work" / "toy" / ".log.tmp-999999"
    left.mkdir(parents=True)
    (left / "1.arrow").write_bytes(b"half")
    assert preprocess(ilrec, raw, "--memory-mb", memory).code == 0
    assert not left.exists()


def test_a_request_to_end_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM while the log waits in files."""
    raw = log(tmp_path / "raw", users=60)
    work = tmp_path / "work"
    code = (
        "import os, signal\n"
        "from ilrec_cli import cli\n"
        "from ilrec_cli.stages import _dataset\n"
        "def stop(*_):\n"
        f"    assert [name for name in os.listdir(r'{work}/toy') if name.startswith('.log.tmp-')]\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "_dataset.limit_users = stop\n"
        f"cli.main(['preprocess', '--dataset', 'toy', '--work', r'{work}', '--raw-dir', r'{raw}', '--memory-mb', '0'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert not work.exists() or tree(work) == []


def test_files_give_back_what_they_got(tmp_path: Path) -> None:
    table = pl.DataFrame({"user": [1, 2], "split": ["train", None], "rating": [None, 1.5]})
    with Spill(tmp_path / "log", limit=table.estimated_size()) as spill:
        held, filed = spill.keep(table), spill.keep(table)
        assert spill.written == table.estimated_size()
        for kept in (held, filed):
            assert kept.load().equals(table)
            assert kept.load("rating", "user").equals(table.select("rating", "user"))
        assert len(tree(tmp_path)) == 2
        held.drop()
        assert filed.take().equals(table)
        assert spill.keep(table).load().equals(table)
        assert len(tree(tmp_path)) == 1, "what was dropped made room"
    assert tree(tmp_path) == []


@given(st.lists(st.lists(st.sampled_from(["", "a", "b", "\x00", "é", "aa"]), max_size=6), max_size=6))
def test_codes_stay_the_same_from_block_to_block(blocks: list[list[str]]) -> None:
    """Between two blocks nothing but the interner remembers a name."""
    interner = _log._Interner()
    codes = [interner.codes(pl.Series(block, dtype=pl.String)).to_list() for block in blocks]
    ids = interner.ids()
    names, flat = ids.names.to_list(), [name for block in blocks for name in block]
    assert [names[code] for block in codes for code in block] == flat
    assert names == list(dict.fromkeys(flat))
    assert ids.counts.tolist() == [flat.count(name) for name in names]


def test_memory_is_bounded_by_the_flag(tmp_path: Path) -> None:
    """Peak memory with files is well below that without, on a log whose interactions outweigh its ids."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "raw"
    raw.mkdir()
    size = 3_000_000
    pl.DataFrame(
        {
            "user": rng.integers(2000, size=size),
            "item": rng.integers(500, size=size),
            "time": rng.integers(10**9, size=size),
        }
    ).write_parquet(raw / "log.parquet")
    code = (
        "import sys\n"
        "from ilrec_cli import cli\n"
        "from ilrec_cli.datasets import _log\n"
        "from ilrec_cli.stages import _partitions\n"
        "from ilrec_cli.datasets.table import files\n"
        "_log.PIECE, _partitions.PART, files.ROWS = 1 << 17, 1 << 17, 1 << 17\n"
        "cli.invoke(['preprocess', '--dataset', 'd', '--work', sys.argv[1], '--raw-dir', sys.argv[2], '--quiet', '--repeats', 'keep', '--memory-mb', sys.argv[3]])\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])\n"
    )
    peaks = []
    for memory in ("4096", "0"):
        command = [sys.executable, "-c", code, str(tmp_path / memory), str(raw), memory]
        out = subprocess.run(
            command, env=os.environ | {"POLARS_MAX_THREADS": "1"}, capture_output=True, text=True, check=True
        )
        peaks.append(int(out.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] - 40, f"MiB with and without: {peaks}"
