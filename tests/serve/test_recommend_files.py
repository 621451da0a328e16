"""`ilrec recommend --input`: files in, files out, whole or absent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Finished, tree

from ilrec_cli import Recommender
from ilrec_cli.stages import _histories_file

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def sft(trained: Path) -> Recommender:
    return Recommender.load(trained / "toy" / "runs" / "sft")


def command(work: Path, *flags: Any) -> list[Any]:
    return ["recommend", "--dataset", "toy", "--work", work, "--run", "sft", "--k", "5", *flags]


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("source", ["in.parquet", "in.jsonl"])
@pytest.mark.parametrize("target", ["out.parquet", "out.jsonl"])
def test_every_row_is_answered_in_its_order(
    sft: Recommender, trained: Path, tmp_path: Path, ilrec: Run, source: str, target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Histories, users of the data, users of the file's own; over several chunks."""
    monkeypatch.setattr(_histories_file, "CHUNK", 4)
    users = list(sft.users)[:5]
    rows: list[dict[str, Any]] = [{"user": user, "history": None} for user in users]
    rows += [{"user": f"new {n}", "history": sft.raw_ids[n : n + 3]} for n in range(5)]
    rows += [{"user": None, "history": sft.raw_ids[7:8]}]
    if source == "in.parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / source)
    else:
        (tmp_path / source).write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    done = ilrec(*command(trained, "--input", tmp_path / source, "--output", tmp_path / target, "--json"))
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[-1])["rows"] == len(rows)
    histories = [row["history"] or sft.history(sft.users[row["user"]]) for row in rows]
    found = rows_of(tmp_path / target)
    assert [row["user"] for row in found] == [row["user"] for row in rows]
    for row, listed in zip(found, sft.recommend(histories, 5), strict=True):
        assert row["scores"] == pytest.approx([each.score for each in listed], abs=1e-4)
        assert sorted(row["items"]) == sorted(each.item for each in listed)
        assert row["titles"] == [sft.titles[sft.numbers[item]] for item in row["items"]]
    assert tree(tmp_path) == sorted([source, target])


def test_allow_and_deny_are_files_or_ids(sft: Recommender, trained: Path, tmp_path: Path, ilrec: Run) -> None:
    (tmp_path / "allow.txt").write_text("\n".join(sft.raw_ids[:6]) + "\n\n")
    flags = ["--history", sft.raw_ids[50], "--json", "--allow", tmp_path / "allow.txt"]
    found = json.loads(ilrec(*command(trained), *flags, "--deny", ",".join(sft.raw_ids[:2])).out.splitlines()[-1])
    assert sorted(row["item"] for row in found["recommendations"]) == sft.raw_ids[2:6]
    assert "--deny: item 'no' is not" in ilrec(*command(trained), *flags, "--deny", "no").one_line()
    assert ilrec(*command(trained), *flags, "--deny", "no", "--unknown", "skip").code == 0
    line = ilrec(*command(trained), *flags, "--deny", ",".join(sft.raw_ids[:6])).one_line()
    assert "no item is left to recommend" in line
    bom = tmp_path / "windows.txt"
    bom.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(sft.raw_ids[:6]).encode())
    again = json.loads(ilrec(*command(trained), *flags[:3], "--allow", bom).out.splitlines()[-1])
    assert [row["item"] for row in again["recommendations"]][:1] == [
        row["item"] for row in json.loads(ilrec(*command(trained), *flags).out.splitlines()[-1])["recommendations"]
    ][:1]
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "no text file" in ilrec(*command(trained), *flags[:3], "--deny", tmp_path / "binary").one_line()


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_list_that_cannot_be_read_is_never_an_empty_one(
    sft: Recommender, trained: Path, tmp_path: Path, ilrec: Run, policy: str
) -> None:
    """What --deny was to forbid would be recommended."""
    flags = ["--history", sft.raw_ids[50], "--unknown", policy]
    for name in (tmp_path / "gone.txt", "gone.txt", "a/" + "x" * 300):
        line = ilrec(*command(trained), *flags, "--deny", name).one_line()
        assert f"--deny {str(name)[:20]}" in line
        assert "no such file can be read" in line
        beside = ilrec(*command(trained), *flags, "--deny", f"{sft.raw_ids[0]},{name}").one_line()
        assert "no such file can be read" in beside, "nor beside others"
    (tmp_path / "empty.txt").write_text("\n")
    assert "the file holds no id" in ilrec(*command(trained), *flags, "--allow", tmp_path / "empty.txt").one_line()


@pytest.mark.parametrize("target", ["out.parquet", "out.jsonl"])
def test_half_a_character_is_no_id(trained: Path, sft: Recommender, tmp_path: Path, ilrec: Run, target: str) -> None:
    """JSON can write it, a file of text cannot hold it."""
    row = json.dumps({"user": "\ud800", "history": sft.raw_ids[:2]})
    (tmp_path / "in.jsonl").write_text(row + "\n")
    flags = ["--input", tmp_path / "in.jsonl", "--output", tmp_path / target]
    assert "line 1: user: '\\ud800' is no id" in ilrec(*command(trained), *flags).one_line()
    assert tree(tmp_path) == ["in.jsonl"]


def test_lines_end_with_line_feeds_alone(sft: Recommender, trained: Path, tmp_path: Path, ilrec: Run) -> None:
    """Separators that only some readers know stand within a record; faults are named by the line of the file."""
    odd = "A\u2028B\u0085C"
    first = json.dumps({"user": odd, "history": sft.raw_ids[:2]}, ensure_ascii=False)
    (tmp_path / "in.jsonl").write_text(f"{first}\n\n{{\n", encoding="utf-8")
    flags = ["--input", tmp_path / "in.jsonl", "--output", tmp_path / "new" / "dir" / "out.jsonl"]
    line = ilrec(*command(trained), *flags).one_line()
    assert "line 3: no JSON (Expecting property name enclosed in double quotes, column 2); each line holds" in line
    (tmp_path / "in.jsonl").write_text(f'{first}\n\n{{"history": ["no"]}}\n', encoding="utf-8")
    assert "line 3: item 'no' is not" in ilrec(*command(trained), *flags).one_line()
    assert tree(tmp_path) == ["in.jsonl"], "no folder is left either"
    (tmp_path / "in.jsonl").write_text(f"{first}\n", encoding="utf-8")
    assert ilrec(*command(trained), *flags).code == 0
    (row,) = (tmp_path / "new" / "dir" / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(row)["user"] == odd


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON"),
        ("[" * 50_000, "line 2: no JSON"),
        ("[1]", "line 2: expected an object"),
        ("{}", "line 2: neither history nor user"),
        ('{"history": "A"}', "line 2: history is str"),
        ('{"history": [1.5]}', "line 2: history: 1.5 is no id"),
        ('{"history": [true]}', "line 2: history: True is no id"),
        ('{"history": [7]}', "line 2: item '7' is not among"),
        ('{"history": []}', "line 2: the history is empty"),
        ('{"user": "nobody"}', "line 2: user 'nobody' is not among"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    line: str, message: str, sft: Recommender, trained: Path, tmp_path: Path, ilrec: Run
) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"history": sft.raw_ids[:2]}) + "\n" + line + "\n")
    flags = ["--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.parquet"]
    assert message in ilrec(*command(trained), *flags).one_line()
    assert tree(tmp_path) == ["in.jsonl"]


def test_files_that_do_not_fit(trained: Path, tmp_path: Path, ilrec: Run) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    assert "no such file" in ilrec(*command(trained, "--input", source, "--output", target)).one_line()
    source.write_text('{"user": "nobody"}\n')
    target.write_text("mine")
    assert "belong together" in ilrec(*command(trained, "--input", source)).one_line()
    assert "is there already" in ilrec(*command(trained, "--input", source, "--output", target)).one_line()
    assert "is the input" in ilrec(*command(trained, "--input", source, "--output", source, "--overwrite")).one_line()
    assert "ends in" in ilrec(*command(trained, "--input", source, "--output", tmp_path / "out.csv")).one_line()
    assert "either --user" in ilrec(*command(trained, "--input", source, "--output", target, "--user", "x")).one_line()
    line = ilrec(*command(trained, "--input", source, "--output", target, "--explain")).one_line()
    assert "does not go with --input" in line
    (tmp_path / "in.parquet").write_text("no parquet")
    flags = ["--input", tmp_path / "in.parquet", "--output", tmp_path / "new.jsonl"]
    assert "no readable Parquet file" in ilrec(*command(trained, *flags)).one_line()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "in.parquet")
    assert "expected a column history or user, got a" in ilrec(*command(trained, *flags)).one_line()
    assert target.read_text() == "mine"
