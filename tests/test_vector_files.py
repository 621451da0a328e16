"""Vectors of items from a file, by `build-ids --vectors`: whose row is whose, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import Finished
from safetensors.numpy import save_file
from test_vectors import CODES, build, common, items_of, vectors_of

from ilrec_cli import artifacts

Run = Callable[..., Finished]


def numbered(work: Path) -> None:
    """The shared world's items, renumbered by their source as published data are: item n has source_id 3n mod I."""
    folder = work / "toy" / "data"
    data = artifacts.read(folder, "data")
    columns = {name: data.table("items")[name] for name in data.table("items").column_names}
    count = len(columns["item"])
    assert count % 3, "otherwise 3n mod I is no numbering"
    columns["source_id"] = [str(3 * item % count) for item in range(count)]
    artifacts.write_table(folder, "items", columns)
    manifest = data.manifest
    artifacts.finish(folder, kind="data", config=manifest["config"], seed=manifest["seed"], parents={})


def test_rows_are_found_by_source_id(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    numbered(own_world)
    source = np.array([int(name) for name in items_of(own_world)["source_id"].to_pylist()])
    matrix = np.random.default_rng(0).normal(size=(len(source), 6)).astype(np.float32)
    np.save(tmp_path / "v.npy", matrix.astype(np.float64))
    save_file({"a": matrix, "b": -matrix}, tmp_path / "two.safetensors")
    save_file({"only": matrix}, tmp_path / "one.safetensors")
    for name, file, sign, more in (
        ("npy", "v.npy", 1, []),
        ("one", "one.safetensors", 1, []),
        ("b", "two.safetensors", -1, ["--vectors-tensor", "b"]),
    ):
        ids = build(ilrec, own_world, name, "--vectors", tmp_path / file, *more)
        assert np.array_equal(vectors_of(ids), sign * matrix[source])
        assert ids.config["vectors"] == file
        assert "encoder" not in ids.config
    result = ilrec("build-ids", *common(own_world), *CODES, "--vectors", tmp_path / "two.safetensors")
    assert "several tensors; choose with --vectors-tensor: a, b" in result.one_line()


def test_a_padding_row_in_front_is_not_taken_for_an_item(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    numbered(own_world)
    count = len(items_of(own_world))
    np.save(tmp_path / "padded.npy", np.ones((count + 1, 4), np.float32))
    line = ilrec("build-ids", *common(own_world), *CODES, "--vectors", tmp_path / "padded.npy").one_line()
    assert f"{count + 1:,} rows, expected {count:,}" in line


def write(folder: Path, matrix: Any, name: str = "v.npy") -> Path:
    np.save(folder / name, matrix, allow_pickle=True)
    return folder / name


def holed(count: int, value: float) -> np.ndarray:
    matrix = np.ones((count, 3))
    matrix[7, 1] = value
    return matrix


BAD = {
    "rows": (lambda folder, n: write(folder, np.ones((n - 1, 3))), "rows, expected"),
    "nan": (lambda folder, n: write(folder, holed(n, np.nan)), "1 rows hold NaN"),
    "inf": (lambda folder, n: write(folder, holed(n, np.inf)), "too large for float32"),
    "float32": (lambda folder, n: write(folder, holed(n, 1e300)), "too large for float32"),
    "one-dimension": (lambda folder, n: write(folder, np.ones(n)), "shape ({n},), expected one row"),
    "no-columns": (lambda folder, n: write(folder, np.ones((n, 0))), "expected one row"),
    "text": (lambda folder, n: write(folder, np.full((n, 2), "x")), "expected numbers"),
    "objects": (lambda folder, n: write(folder, np.full((n, 2), None)), "Python objects, which ilrec does not load"),
    "rubbish": (lambda folder, n: (folder / "v.npy").write_bytes(b"rubbish") and folder / "v.npy", "no array of numbers"),
    "cut": (lambda folder, n: cut(write(folder, np.ones((n, 3)))), "no array of numbers"),
    "suffix": (lambda folder, n: write(folder, np.ones((n, 3)), "v.npy").rename(folder / "v.bin"), "expected a .npy"),
    "empty": (lambda folder, n: (folder / "v.npy").touch() or folder / "v.npy", "the file is empty"),
    "missing": (lambda folder, n: folder / "nothing.npy", "cannot be read (No such file or directory)"),
    "header": (lambda folder, n: broken(folder / "v.safetensors"), "no safetensors file"),
}  # fmt: skip


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-8])
    return path


def broken(path: Path) -> Path:
    path.write_bytes(b"rubbish")
    return path


def test_files_of_no_use_are_refused_in_one_line(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    numbered(own_world)
    count = len(items_of(own_world))
    before = sorted(path.name for path in (own_world / "toy" / "ids").iterdir())
    for name, (make, expected) in BAD.items():
        folder = tmp_path / name
        folder.mkdir()
        line = ilrec("build-ids", *common(own_world), *CODES, "--vectors", make(folder, count)).one_line()
        assert expected.format(n=count) in line, name
        assert line.count("--vectors ") == 1, name
    assert sorted(path.name for path in (own_world / "toy" / "ids").iterdir()) == before


def test_items_that_all_have_one_vector_are_named(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    numbered(own_world)
    vectors = write(tmp_path, np.ones((len(items_of(own_world)), 4)))
    result = ilrec("build-ids", *common(own_world), *CODES, "--vectors", vectors, "--name", "one")
    assert result.code == 0
    assert "items have the same vector" in result.err


def test_ids_of_rows_must_cover_the_items_once(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    names = items_of(own_world)["raw_id"].to_pylist()
    vectors = write(tmp_path, np.random.default_rng(0).normal(size=(len(names), 3)))
    arguments = ["build-ids", *common(own_world), *CODES, "--vectors", vectors]
    assert "rows need names: --vectors-ids FILE" in ilrec(*arguments).one_line()
    for wrong, expected in (
        (names[:-1], f"{len(names) - 1:,} ids for the {len(names):,} rows"),
        ([*names[:-1], names[0]], f"'{names[0]}' is there twice"),
        ([*names[:-1], "stranger"], f"no row for 1 of {len(names):,} items, the first is '{names[-1]}'"),
        ({"a": 1}, "expected a list of item ids, got dict"),
    ):
        (tmp_path / "ids.json").write_text(json.dumps(wrong))
        assert expected in ilrec(*arguments, "--vectors-ids", tmp_path / "ids.json").one_line()
    (tmp_path / "ids.json").write_text("[" * 200_000)
    assert "nested too deeply" in ilrec(*arguments, "--vectors-ids", tmp_path / "ids.json").one_line()
    (tmp_path / "ids.json").write_text("[")
    assert "not UTF-8 text or JSON" in ilrec(*arguments, "--vectors-ids", tmp_path / "ids.json").one_line()
