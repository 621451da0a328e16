"""ids extend by the command line: newer data, tables of new items, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished, tree
from test_ids_commands import items_of, newer, paths, toy

from ilrec_cli import artifacts

Run = Callable[..., Finished]


def test_newer_data_get_identifiers_and_old_items_keep_theirs(own_world: Path, ilrec: Run) -> None:
    before = paths(own_world, "text")
    newer(own_world)
    result = ilrec("ids", "extend", *toy(own_world), "--ids", "text", "--name", "more", "--json")
    assert result.code == 0, result.err
    after = paths(own_world, "more")
    new = set(after) - set(before)
    assert new
    assert {item: after[item] for item in before if item in after} == {
        item: before[item] for item in before if item in after
    }
    assert len(set(map(tuple, [*before.values(), *(after[item] for item in new)]))) == len(before) + len(new)
    figures = json.loads(result.out.splitlines()[-1])
    assert (figures["new_items"], figures["colliding_items"], figures["extended_from"]) == (len(new), 0, "text")
    ids = artifacts.read(own_world / "toy" / "ids" / "more", "ids")
    assert ids.manifest["parents"]["ids"] == artifacts.read(own_world / "toy" / "ids" / "text", "ids").digest
    assert "has all items" in ilrec("ids", "extend", *toy(own_world), "--ids", "more").one_line()
    assert "is there already" in ilrec("ids", "extend", *toy(own_world), "--ids", "text", "--name", "more").one_line()
    assert ilrec("ids", "report", *toy(own_world)).code == 0


def test_the_path_of_an_item_that_went_is_not_given_away(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    """Two extensions later, new items with the text of lost ones still have other paths."""
    before, lost = paths(own_world, "text"), items_of(own_world)
    newer(own_world, "--limit-users", "60")
    assert ilrec("ids", "extend", *toy(own_world), "--ids", "text", "--name", "fewer").code == 0
    lost = [item for item in lost if item["raw_id"] not in paths(own_world, "fewer")]
    assert lost
    newer(own_world)
    assert ilrec("ids", "extend", *toy(own_world), "--ids", "fewer", "--name", "more").code == 0
    rows = [{**item, "raw_id": f"new-{item['raw_id']}"} for item in lost]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ilrec("ids", "extend", *toy(own_world), "--ids", "more", "--items", file).code == 0
    found = [json.loads(line)["tokens"] for line in (own_world / "toy" / "new.ids.jsonl").read_text().splitlines()]
    gone = {tuple(before[item["raw_id"]]) for item in lost}
    assert not gone & set(map(tuple, [*found, *paths(own_world, "more").values(), *paths(own_world, "fewer").values()]))


def test_a_table_of_new_items(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    known = items_of(own_world)
    old, alike = known[3], known[5]
    rows = [
        {"raw_id": "z-new", "title": alike["title"], "brand": alike["brand"], "description": alike["description"]},
        {"raw_id": old["raw_id"], "title": "another title"},
        {"raw_id": "a-new", "title": alike["title"], "brand": alike["brand"], "description": alike["description"]},
        {"raw_id": "odd", "title": ""},
    ]
    again = {"raw_id": "odd", "title": "the first row of an item counts"}
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, again]))
    assert ilrec("ids", "extend", *toy(own_world), "--items", file).code == 0
    found = [json.loads(line) for line in (own_world / "toy" / "new.ids.jsonl").read_text().splitlines()]
    assert [row["raw_id"] for row in found] == [row["raw_id"] for row in rows]
    assert [row["new"] for row in found] == [True, False, True, True]
    before = paths(own_world, "text")
    assert found[1]["tokens"] == before[old["raw_id"]]
    taken = set(map(tuple, before.values()))
    new = [tuple(found[place]["tokens"]) for place in (0, 2, 3)]
    assert len(set(new)) == 3
    assert not taken & set(new)
    file.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert ilrec("ids", "extend", *toy(own_world), "--items", file, "--overwrite").code == 0
    backwards = [json.loads(line) for line in (own_world / "toy" / "new.ids.jsonl").read_text().splitlines()]
    assert backwards == found[::-1], "the order of the table does not matter"


def test_tables_one_after_another(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    """Three times one text: with --taken each gets a path of its own, and keeps it."""
    text = {key: items_of(own_world)[5][key] for key in ("title", "brand", "description")}
    extend, found = ["ids", "extend", *toy(own_world), "--ids", "text", "--overwrite"], {}
    for name in ("n1", "n2", "n3"):
        rows = [{"raw_id": other, **text} for other in (*found, name)]  # earlier ones stand in it again
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        before = [own_world / "toy" / f"{other}.ids.jsonl" for other in found]
        taken = ["--taken", ",".join(map(str, before))] if before else []
        assert ilrec(*extend, "--items", tmp_path / f"{name}.jsonl", *taken).code == 0
        lines = [json.loads(line) for line in (own_world / "toy" / f"{name}.ids.jsonl").read_text().splitlines()]
        assert [(row["raw_id"], row["new"]) for row in lines] == [*((other, False) for other in found), (name, True)]
        assert [row["tokens"] for row in lines[:-1]] == list(found.values())
        found[name] = lines[-1]["tokens"]
    assert len({tuple(path) for path in [*found.values(), *paths(own_world, "text").values()]}) == 3 + len(
        items_of(own_world)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", ":1: expected a line that"),
        ("[" * 100000, ":1: expected a line that"),
        ('{"raw_id": "x", "codes": [0, 9999]}\n', ":1: [0, 9999] is no path of 'text'"),
        ('{"raw_id": "x", "codes": [0, 0, 0]}\n{"raw_id": "x", "codes": [0, 0, 1]}\n', ":2: item 'x' has another path"),
        (None, "cannot be read"),
    ],
)
def test_files_that_say_nothing_of_taken_paths(
    text: str | None, message: str, own_world: Path, tmp_path: Path, ilrec: Run
) -> None:
    (tmp_path / "new.csv").write_text("raw_id,title\nx,One\n")
    if text is not None:
        (tmp_path / "taken").write_text(text)
    extend = ["ids", "extend", *toy(own_world), "--ids", "text", "--items", tmp_path / "new.csv"]
    assert message in ilrec(*extend, "--taken", tmp_path / "taken").one_line()


def test_a_bad_line_of_a_table_of_new_items(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    (tmp_path / "new.jsonl").write_text('{"raw_id": "x", "title": "One"}\n{\n')
    line = ilrec("ids", "extend", *toy(own_world), "--ids", "text", "--items", tmp_path / "new.jsonl").one_line()
    assert "new.jsonl:2:" in line
    assert "--on-error" not in line


def test_the_same_text_gets_the_same_greedy_codes(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    """Items of known text, under new ids, with collisions kept: their codes are those of the old items."""
    ilrec("build-ids", *toy(own_world), "--name", "kept", "-o", "codes=8", "--collisions", "keep")
    rows = [{**item, "raw_id": f"new-{item['raw_id']}"} for item in items_of(own_world)]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ilrec("ids", "extend", *toy(own_world), "--ids", "kept", "--items", file).code == 0
    found = [json.loads(line)["tokens"] for line in (own_world / "toy" / "new.ids.jsonl").read_text().splitlines()]
    assert np.mean([a == b for a, b in zip(found, paths(own_world, "kept").values(), strict=True)]) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--items", "nowhere.csv"], "no such file"),
        (["--output", "x"], "--output goes with --items"),
        (["--taken", "x"], "--taken goes with --items"),
        (["--items", "x", "--name", "y"], "--output, not --name"),
        (["--ids", "imported"], "an import has no codebooks"),
    ],
)
def test_extensions_that_make_no_sense(
    flags: list[str], message: str, own_world: Path, tmp_path: Path, ilrec: Run
) -> None:
    ilrec("ids", "export", *toy(own_world), "--ids", "text", "--output", tmp_path / "index.json")
    ilrec("build-ids", *toy(own_world), "--index", tmp_path / "index.json", "--name", "imported", "--quiet")
    files = tree(own_world)
    chosen = [] if "--ids" in flags else ["--ids", "text"]
    assert message in ilrec("ids", "extend", *toy(own_world), *chosen, *flags).one_line()
    assert tree(own_world) == files


def test_no_leaf_is_left(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    ilrec("build-ids", *toy(own_world), "--name", "full", "-o", "codes=4", "-o", "levels=2")
    file = tmp_path / "new.csv"
    file.write_text("raw_id,title\nx,One\n")
    line = ilrec("ids", "extend", *toy(own_world), "--ids", "full", "--items", file).one_line()
    assert "every one of its 16 paths is taken" in line
