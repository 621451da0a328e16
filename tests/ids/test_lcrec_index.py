"""Import of .index.json files: as they are, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished

from ilrec_cli import artifacts


def index_of(own_world: Path) -> dict[str, list[str]]:
    items = artifacts.read(own_world / "toy" / "data", "data").table("items")["source_id"].to_pylist()
    return {item: [f"<a_{n % 3}>", f"<b_{n // 3 % 40}>", f"<c_{n // 120}>"] for n, item in enumerate(items)}


def test_paths_are_kept_and_collisions_reported(
    own_world: Path, tmp_path: Path, ilrec: Callable[..., Finished]
) -> None:
    index = index_of(own_world)
    first, second, *_ = index
    index[second] = index[first]
    index["not-in-the-data"] = ["<a_0>", "<b_0>", "<c_9>"]
    file = tmp_path / "toy.index.json"
    file.write_text(json.dumps(index))
    result = ilrec("build-ids", "--dataset", "toy", "--work", own_world, "--index", file, "--name", "imported")
    assert result.code == 0, result.err
    assert "2 items collide" in result.out
    ids = artifacts.read(own_world / "toy" / "ids" / "imported", "ids")
    items = artifacts.read(own_world / "toy" / "data", "data").table("items")["source_id"].to_pylist()
    assert ids.table("item_ids")["tokens"].to_pylist() == [index[item] for item in items]
    figures = ids.json("quality.json")
    assert (figures["colliding_items"], figures["entries_not_used"]) == (2, 1)
    assert "name no item of this dataset" in result.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "no entry for 1 of"),
        ("number", "expected a list of tokens"),
        ("empty", "expected a list of tokens"),
        ("list", "expected an object"),
        ("broken", "not valid JSON"),
        ("deep", "nested too deeply"),
        ("absent", "cannot be read"),
    ],
)
def test_odd_files_are_refused(
    change: str, message: str, own_world: Path, tmp_path: Path, ilrec: Callable[..., Finished]
) -> None:
    index: dict[str, object] = dict(index_of(own_world))
    some = next(iter(index))
    if change == "missing":
        del index[some]
    elif change in ("number", "empty"):
        index[some] = 3 if change == "number" else []
    text = json.dumps([1] if change == "list" else index)
    text = "[" * 200_000 if change == "deep" else text
    file = tmp_path / "toy.index.json"
    if change != "absent":
        file.write_text(text[:-5] if change == "broken" else text)
    before = sorted((own_world / "toy" / "ids").iterdir())
    line = ilrec("build-ids", "--dataset", "toy", "--work", own_world, "--index", file, "--name", "refused").one_line()
    assert message in line
    assert str(file) in line
    assert sorted((own_world / "toy" / "ids").iterdir()) == before
