"""Raw files with mistakes: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished, tree

Run = Callable[..., Finished]


def raw(folder: Path, users: int = 6, items: int = 6) -> Path:
    """Review lines in which every user buys every item: a 5-core by itself."""
    folder.mkdir()
    rows = [
        {"reviewerID": f"u{u}", "asin": f"i{i}", "overall": 5.0, "unixReviewTime": i}
        for u in range(users)
        for i in range(items)
    ]
    (folder / "Toys.json.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return folder


def preprocess(ilrec: Run, work: Path, folder: Path, *more: str) -> Finished:
    return ilrec("preprocess", "--dataset", "Toys", "--work", work, "--raw-dir", folder, *more)


def test_raw_files_that_are_fine(tmp_path: Path, ilrec: Run) -> None:
    assert preprocess(ilrec, tmp_path / "work", raw(tmp_path / "raw")).code == 0


def test_unknown_dataset(tmp_path: Path, ilrec: Run) -> None:
    line = ilrec("preprocess", "--dataset", "Nowhere", "--work", tmp_path / "work").one_line()
    assert "unknown dataset 'Nowhere'" in line
    assert str(tmp_path / "work" / "Nowhere" / "raw") in line
    assert "--raw-dir" in line
    assert tree(tmp_path) == []


def test_no_recognised_file(tmp_path: Path, ilrec: Run) -> None:
    (tmp_path / "raw").mkdir()
    assert "no source recognises them" in preprocess(ilrec, tmp_path / "work", tmp_path / "raw").one_line()


@pytest.mark.parametrize("spoil", ["truncated", "not json", "missing field"])
def test_broken_raw_files(spoil: str, tmp_path: Path, ilrec: Run) -> None:
    file = raw(tmp_path / "raw") / "Toys.json.gz"
    text = gzip.decompress(file.read_bytes())
    expected = {
        "truncated": "truncated or corrupt",
        "not json": "Toys.json.gz:3: not valid JSON",
        "missing field": "Toys.json.gz:3: field 'unixReviewTime' is missing",
    }
    lines = text.splitlines(keepends=True)
    if spoil == "truncated":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        lines[2] = b"{oops}\n" if spoil == "not json" else lines[2].replace(b"unixReviewTime", b"time")
        file.write_bytes(gzip.compress(b"".join(lines)))
    assert expected[spoil] in preprocess(ilrec, tmp_path / "work", tmp_path / "raw").one_line()
    assert not (tmp_path / "work").exists()


def test_nothing_left_after_the_core_shows_the_counts_of_each_pass(tmp_path: Path, ilrec: Run) -> None:
    line = preprocess(ilrec, tmp_path / "work", raw(tmp_path / "raw"), "--user-k", "7").one_line()
    assert "user_k 7, item_k 5" in line
    assert "6 users, 6 items, 36 interactions; 0 users, 0 items, 0 interactions" in line
    assert not (tmp_path / "work").exists()


def test_no_item_text(tmp_path: Path, ilrec: Run) -> None:
    preprocess(ilrec, tmp_path / "work", raw(tmp_path / "raw"))
    line = ilrec("build-ids", "--dataset", "Toys", "--work", tmp_path / "work").one_line()
    assert "none of the 6 items has text" in line
    assert "--index" in line
    assert not (tmp_path / "work" / "Toys" / "ids").exists()


def test_an_output_folder_that_cannot_be_made(tmp_path: Path, ilrec: Run) -> None:
    folder = raw(tmp_path / "raw")
    (tmp_path / "work").write_text("a file where the folder should go")
    line = preprocess(ilrec, tmp_path / "work", folder).one_line()
    assert "cannot be made" in line
    assert "--work" in line


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"X.item2id": "a\t1\nb\t2\na\t3\n"}, r"X.item2id:3: 'a' is there for the second time"),
        ({"X.user2id": "U\t0\nV\t0\n"}, r"X.user2id:2: '0' is there for the second time"),
        (
            {"X.inter.json": '{"0": [1, 2, 3], "0": [4, 5, 6]}'},
            r"X.inter.json: not valid JSON (the key '0' is given twice)",
        ),
    ],
)
def test_ids_that_are_there_twice(files: dict[str, str], message: str, tmp_path: Path, ilrec: Run) -> None:
    (tmp_path / "X.inter.json").write_text('{"0": [1, 2, 3, 4], "1": [5, 6, 7, 8]}')
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    line = ilrec("preprocess", "--dataset", "X", "--work", tmp_path / "w", "--raw-dir", tmp_path).one_line()
    assert message in line


def test_users_without_items_are_counted(tmp_path: Path, ilrec: Run) -> None:
    (tmp_path / "X.inter.json").write_text('{"0": [1, 2, 3], "1": []}')
    done = ilrec("preprocess", "--dataset", "X", "--work", tmp_path / "w", "--raw-dir", tmp_path)
    assert "while reading: 1 users without any item" in done.out


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("overall", "NaN"),
        ("overall", "1e999"),
        ("unixReviewTime", "NaN"),
        ("unixReviewTime", "99999999999999999999999"),
    ],
)
def test_numbers_that_are_none_are_named_by_line(field: str, value: str, tmp_path: Path, ilrec: Run) -> None:
    row = {"reviewerID": "u", "asin": "i", "overall": 5, "unixReviewTime": 5}
    bad = json.dumps(row).replace(f'"{field}": 5', f'"{field}": {value}')
    (tmp_path / "X.json").write_text(f"{json.dumps(row)}\n{bad}\n")
    line = ilrec("preprocess", "--dataset", "X", "--work", tmp_path / "w", "--raw-dir", tmp_path).one_line()
    assert f"X.json:2: field '{field}' is" in line
