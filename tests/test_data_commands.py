"""data audit, convert and show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished

from ilrec_cli import artifacts

Run = Callable[..., Finished]


def make(ilrec: Run, raw: Path, work: Path, *flags: object) -> None:
    done = ilrec(
        "preprocess", "--dataset", "toy", "--work", work, "--raw-dir", raw, "--user-k", 0, "--item-k", 0, *flags
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize(("to", "flags"), [("recbole", []), ("lcrec", []), ("csv", [])])
def test_converted_data_read_back_as_the_same_sequences(
    to: str, flags: list[str], own_world: Path, tmp_path: Path, ilrec: Run
) -> None:
    done = ilrec("data", "convert", "--dataset", "toy", "--work", own_world, "--to", to, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    make(ilrec, tmp_path / "out", tmp_path / "work", *flags, "--repeats", "keep")
    before, after = (artifacts.read(work / "toy" / "data", "data") for work in (own_world, tmp_path / "work"))
    for name in ("sequences", "splits", "users"):
        assert after.table(name).equals(before.table(name)), name
    columns = ["item", "raw_id", "title", "description", "brand", "categories"]
    assert after.table("items").select(columns).equals(before.table("items").select(columns))
    if to != "lcrec":  # its files have no times
        assert after.table("interactions").equals(before.table("interactions"))
    again = ["data", "convert", "--dataset", "toy", "--work", own_world, "--to", to, "--output", tmp_path / "out"]
    assert "is there already" in ilrec(*again).one_line()
    assert ilrec(*again, "--overwrite").code == 0


def test_ids_that_a_format_cannot_hold_are_refused(tmp_path: Path, ilrec: Run) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "log.jsonl").write_text(
        "".join(json.dumps({"user": "a\tb", "item": f"i{n}", "time": n}) + "\n" for n in range(4))
    )
    make(ilrec, tmp_path / "raw", tmp_path / "work")
    common = ["data", "convert", "--dataset", "toy", "--work", tmp_path / "work", "--to"]
    assert "holds a tab or a line end" in ilrec(*common, "recbole").one_line()
    assert not (tmp_path / "work" / "toy" / "converted").exists() or not list(
        (tmp_path / "work" / "toy" / "converted").rglob("*.inter")
    )
    assert ilrec(*common, "csv").code == 0


def test_the_audit_counts_what_is_there(tmp_path: Path, ilrec: Run) -> None:
    """Users a and b: ties at the boundary, repeats, a test target never trained on, one before the other's training."""
    rows = {
        "a": [("x", 1), ("y", 2), ("x", 3), ("x", 3), ("z", 4), ("z", 4)],
        "b": [("y", 10), ("x", 11), ("y", 12), ("w", 13)],
    }
    (tmp_path / "raw").mkdir()
    lines = ["user,item,time", *(f"{user},{item},{time}" for user, events in rows.items() for item, time in events)]
    (tmp_path / "raw" / "log.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "items.csv").write_text('item,title\nx,Red kite\ny,Red kite\nz,"Kite, RED"\n')
    make(ilrec, tmp_path / "raw", tmp_path / "work", "--repeats", "keep", "-o", f"items={tmp_path / 'items.csv'}")
    done = ilrec("data", "audit", "--dataset", "toy", "--work", tmp_path / "work", "--json")
    found = {name: (row["count"], row["of"]) for name, row in json.loads(done.out.splitlines()[-1])["findings"].items()}
    assert found == {
        "valid targets with the time of the item before": (0, 2),
        "test targets with the time of the item before": (1, 2),
        "test targets before another user's last training event": (1, 2),
        "repeated interactions of a user with an item": (4, 10),
        "interactions that repeat the one before": (2, 10),
        "test targets that are in their history": (1, 2),
        "valid targets never seen in training": (1, 2),
        "test targets never seen in training": (2, 2),
        "items without a title": (1, 4),
        "items without any text": (1, 4),
        "items that share their title": (2, 4),
        "titles like another but for one word, case or punctuation": (2, 2),
    }
    assert "note: test targets with the time of the item before: the order of the file decides" in done.out


def test_show_prints_users_as_models_see_them(own_world: Path, ilrec: Run) -> None:
    common = ["data", "show", "--dataset", "toy", "--work", own_world]
    shown = json.loads(ilrec(*common, "-n", 2, "--json").out.splitlines()[-1])["users"]
    data = artifacts.read(own_world / "toy" / "data", "data")
    ids = data.table("users")["raw_id"].to_pylist()
    assert list(shown) == ids[:2]
    rows = shown[ids[0]]
    assert [row["split"] for row in rows] == ["train"] * (len(rows) - 2) + ["valid", "test"]
    items = data.table("items")["raw_id"].to_pylist()
    assert [row["item"] for row in rows] == [items[item] for item in data.table("sequences")["items"][0].as_py()]
    assert list(json.loads(ilrec(*common, "--user", ids[5], "--json").out.splitlines()[-1])["users"]) == [ids[5]]
    assert f"Did you mean '{ids[5]}'" in ilrec(*common, "--user", ids[5] + "x").one_line()
