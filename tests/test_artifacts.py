"""Folders that are whole or absent, that are checked when read, and that know their parents."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import tree

from ilrec_cli import artifacts, folders
from ilrec_cli.errors import UserError


def training(users: int) -> dict[str, list[int]]:
    return {"train_from": [0] * users, "train_to": [1] * users}


def make(
    path: Path, users: list[str], parents: dict[str, artifacts.Artifact] | None = None, kind: str = "data"
) -> artifacts.Artifact:
    with artifacts.create(path, kind=kind, config={"a": 1}, seed=0, parents=parents or {}) as folder:
        artifacts.write_table(folder, "users", {"user": range(len(users)), "raw_id": users, **training(len(users))})
        artifacts.write_json(folder / "card.json", {"n": len(users)})
    return artifacts.read(path, kind)


def test_a_table_comes_back_and_the_digest_depends_on_content_alone(tmp_path: Path) -> None:
    one, two, three = (
        make(tmp_path / "a", ["x", "y"]),
        make(tmp_path / "b", ["x", "y"]),
        make(tmp_path / "c", ["x", "z"]),
    )
    assert one.table("users").select(["user", "raw_id"]).to_pydict() == {"user": [0, 1], "raw_id": ["x", "y"]}
    assert one.digest == two.digest != three.digest
    assert one.json("card.json") == {"n": 2}
    assert json.loads((tmp_path / "a" / "provenance.json").read_text()).keys() >= {"time", "host", "packages"}


def test_a_failure_inside_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    class Boom(Exception):
        pass

    for path, before in ((tmp_path / "new", None), (tmp_path / "old", make(tmp_path / "old", ["x"]))):
        with pytest.raises(Boom), artifacts.create(path, kind="data", config={}, seed=0, parents={}) as folder:
            artifacts.write_json(folder / "half.json", {})
            raise Boom
        assert artifacts.exists(path) == (before is not None)
    assert artifacts.read(tmp_path / "old", "data").table("users")["raw_id"].to_pylist() == ["x"]
    assert [name for name in tree(tmp_path) if "tmp" in name or "half" in name] == []


def test_a_crash_between_the_renames_is_repaired_at_the_next_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data"
    make(path, ["old"])
    real = os.rename

    def crash_on_second(source: Any, target: Any) -> None:
        if Path(target) == path:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", crash_on_second)
    with pytest.raises(KeyboardInterrupt):
        make(path, ["new"])
    monkeypatch.undo()
    assert not path.exists()
    assert artifacts.read(path, "data").table("users")["raw_id"].to_pylist() == ["old"]
    make(path, ["new"])
    assert tree(tmp_path) == sorted(
        ["data", *(f"data/{name}" for name in ("card.json", "manifest.json", "provenance.json", "users.parquet"))]
    )


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    dead = tmp_path / ".data.tmp-999999999"
    alive = tmp_path / ".data.tmp-1"
    for folder in (dead, alive):
        folder.mkdir()
    with folders.locked(alive, wait=False):
        make(tmp_path / "data", ["x"])
    assert not dead.exists()
    assert alive.exists()


def test_a_new_folder_is_no_leftover_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process cleans up at the worst moment: just after the folder was made."""
    code = (
        f"from pathlib import Path; from ilrec_cli import folders; folders.remove_leftovers(Path(r'{tmp_path}/data'))"
    )
    others: list[subprocess.Popen[bytes]] = []
    make_folder = Path.mkdir

    def mkdir(path: Path, *rest: Any, **more: Any) -> None:
        make_folder(path, *rest, **more)
        if ".tmp-" in path.name:
            others.append(subprocess.Popen([sys.executable, "-c", code]))
            with suppress(subprocess.TimeoutExpired):  # it waits for the lock, or is done
                others[0].wait(timeout=1.5)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with folders.aside(tmp_path / "data") as folder:
        assert others[0].wait(timeout=20) == 0
        assert folder.is_dir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "card.json").unlink(), "card.json is missing, though its manifest lists it"),
        (lambda p: (p / "card.json").write_text('{"n": 9}'), "card.json has 8 bytes, its manifest says"),
        (
            lambda p: (p / "card.json").write_text((p / "card.json").read_text().replace("2", "3")),
            "card.json was changed after it was written",
        ),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda p: edit(p, "format", 99), "format 99, this ilrec reads 1 to 1"),
        (lambda p: edit(p, "kind", "ids"), "holds item identifiers, expected preprocessed data"),
        (lambda p: edit(p, "tables", {"users": 7}), "schema version 7, this ilrec reads 2"),
    ],
)
def test_what_is_wrong_is_said(damage: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "data", ["x", "y"])
    damage(tmp_path / "data")
    with pytest.raises(UserError, match=message):
        artifacts.read(tmp_path / "data", "data").table("users")


def edit(path: Path, key: str, value: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {key: value}))


def test_a_column_of_another_type_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = make(tmp_path / "data", ["x"])
    version, schema = artifacts.TABLES["users"]
    other = {"users": (version, schema.set(0, pa.field("user", pa.int64())))}
    monkeypatch.setattr(artifacts, "TABLES", other)
    with pytest.raises(UserError, match=r"users.parquet: column 'user' is int32, expected int64"):
        found.table("users")


def test_columns_that_the_schema_does_not_have_are_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        artifacts.write_table(tmp_path, "users", {"user": [1]})
    with pytest.raises(pa.ArrowInvalid):
        artifacts.write_table(tmp_path, "users", {"user": ["one"], "raw_id": ["x"], **training(1)})


def test_parents_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    data = make(tmp_path / "data", ["x"])
    child = make(tmp_path / "ids" / "mine", ["i"], {"data": data}, "ids")
    child.require_parent(data, "data")
    other = make(tmp_path / "data", ["y"])
    with pytest.raises(UserError) as refusal:
        child.require_parent(other, "data")
    message = str(refusal.value)
    for part in ("'mine'", data.digest[:8], other.digest[:8], "ilrec build-ids"):
        assert part in message


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the output folder cannot be made"):
        make(tmp_path / "file" / "data", ["x"])


def test_missing_folders_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no item identifiers at .* Run: ilrec build-ids"):
        artifacts.read(tmp_path / "ids", "ids")


def test_a_full_disk_leaves_the_text_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    artifacts.write_text(path, "before")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        artifacts.write_text(path, "after")
    assert path.read_text() == "before"
    assert tree(tmp_path) == ["file.txt"]
