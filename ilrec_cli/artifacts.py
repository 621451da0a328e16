"""Everything on disk: folders with a manifest, written aside and renamed in, checked when read.

A finished folder holds `manifest.json` (format version, kind, stage, configuration, seed, digest, parents' digests)
and `provenance.json` (time, host, package versions), which is outside the digest: the same inputs give the same
digest. Tables have a fixed schema with a version. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ilrec_cli import folders
from ilrec_cli.errors import UserError
from ilrec_cli.provenance import provenance
from ilrec_cli.schemas import KINDS, TABLES

FORMAT = 1
OLDEST_FORMAT = 1
# Larger files (weights of an 8B model) are checked by size alone: hashing them would take longer than loading them.
HASH_LIMIT = 256 << 20
OUTSIDE_DIGEST = {"manifest.json", "provenance.json", "log.jsonl", "cost.json"}
SCRATCH = "checkpoints"  # a folder that is no part of a finished artifact


@dataclass(frozen=True)
class Artifact:
    """A finished folder, checked: files as listed in its manifest, format and kind as expected."""

    path: Path
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.manifest["config"])

    @property
    def name(self) -> str:
        """The name users give: that of the folder, or of the run whose `train` part this is."""
        return self.path.parent.name if self.path.name == "train" else self.path.name

    def table(self, name: str) -> pa.Table:
        """A table of this folder, with exactly the columns and types of its schema."""
        version, schema = TABLES[name]
        path = self.path / f"{name}.parquet"
        found_version = self.manifest["tables"].get(name)
        if found_version != version:
            raise UserError(
                f"{path}: schema version {found_version}, this ilrec reads {version}. Re-run: {self._command()}"
            )
        table = pq.read_table(path)
        for field in schema:
            found = table.schema.field(field.name).type if field.name in table.column_names else "missing"
            if found != field.type:
                raise UserError(
                    f"{path}: column '{field.name}' is {found}, expected {field.type}. Re-run: {self._command()}"
                )
        return table.select(schema.names)

    def json(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.path / name).read_text(encoding="utf-8")))

    def require_parent(self, parent: Artifact, kind: str) -> None:
        """Refuse to combine this folder with another version of what it was made from."""
        known = self.manifest["parents"].get(kind)
        if known != parent.digest:
            what, command = KINDS[self.manifest["kind"]][0], self._command()
            raise UserError(
                f"{what} '{self.name}' ({self.path}) belongs to {KINDS[kind][0]} {_short(known)}, but {parent.path} is "
                f"{_short(parent.digest)}. Re-run: {command}, or point --{kind} at the version it was made from"
            )

    def _command(self) -> str:
        return KINDS[self.manifest["kind"]][1]


def exists(path: Path) -> bool:
    """Whether a finished folder is there (after repair of an interrupted replacement)."""
    folders.repair(path)
    return (path / "manifest.json").is_file()


def read(path: Path, kind: str) -> Artifact:
    """Open a finished folder; `UserError` says what is missing, damaged or of another kind, and what to run."""
    what, command = KINDS[kind]
    if not exists(path):
        raise UserError(f"no {what} at {path}. Run: {command} --help")
    manifest = read_manifest(path)
    found, version = manifest["kind"], manifest["format"]
    if not OLDEST_FORMAT <= version <= FORMAT:
        raise UserError(f"{path}: format {version}, this ilrec reads {OLDEST_FORMAT} to {FORMAT}. Re-run: {command}")
    if found != kind:
        raise UserError(f"{path} holds {KINDS.get(found, (found,))[0]}, expected {what}. Run: {command} --help")
    for name, entry in manifest["files"].items():
        _check_file(path / name, entry, command)
    return Artifact(path, manifest)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished folder, without checking the files it lists."""
    try:
        manifest = dict(json.loads((path / "manifest.json").read_text(encoding="utf-8")))
        missing = {"kind", "format", "config", "digest", "parents", "tables", "files", "seed"} - manifest.keys()
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}/manifest.json is damaged ({error}). Delete {path} and make it again") from error
    if missing:
        raise UserError(f"{path}/manifest.json is damaged (no {min(missing)}). Delete {path} and make it again")
    return manifest


@contextmanager
def create(
    path: Path, *, kind: str, config: dict[str, Any], seed: int, parents: Mapping[str, Artifact]
) -> Iterator[Path]:
    """A folder to write into; renamed to `path` when the block ends well, removed when it does not.

    An artifact of the same kind at `path` is replaced as a whole; anything else there is refused.
    """
    refuse_foreign(path, kind)
    with folders.aside(path) as aside:
        yield aside
        finish(aside, kind=kind, config=config, seed=seed, parents=parents)
        folders.replace(aside, path)


def refuse_foreign(path: Path, kind: str) -> None:
    """`UserError` if something stands at `path` that is no artifact of this kind: it is not ours to replace."""
    folders.repair(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / "manifest.json").is_file():
        raise UserError(f"{path} is there already and was not made by ilrec. Move it, or choose another --work or name")
    found = read_manifest(path)["kind"]
    if found != kind:
        raise UserError(f"{path} holds {KINDS.get(found, (found,))[0]}, not {KINDS[kind][0]}. Choose another name")


def finish(path: Path, *, kind: str, config: dict[str, Any], seed: int, parents: Mapping[str, Artifact]) -> None:
    """Write manifest and provenance of a folder whose files are complete; the manifest last, atomically."""
    for name in _files(path):
        os.chmod(path / name, 0o644)  # some writers leave files that only their owner can read
    files = {name: _describe(path / name) for name in _files(path) if name not in OUTSIDE_DIGEST}
    tables = {name: TABLES[name][0] for name in TABLES if f"{name}.parquet" in files}
    content = {"kind": kind, "tables": tables, "files": {name: entry["sha256"] for name, entry in files.items()}}
    manifest = {
        "format": FORMAT, "kind": kind, "stage": KINDS[kind][1], "config": config, "seed": seed,
        "digest": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "parents": {role: parent.digest for role, parent in parents.items()}, "tables": tables, "files": files,
    }  # fmt: skip
    write_json(path / "provenance.json", provenance())
    write_json(path / "manifest.json", manifest)


@contextmanager
def table_writer(folder: Path, name: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that adds rows to a table, for what does not fit in memory at once."""
    schema = TABLES[name][1]

    def write(columns: Mapping[str, Any]) -> None:
        if set(columns) != set(schema.names):
            raise ValueError(f"table {name}: columns {sorted(columns)}, expected {sorted(schema.names)}")
        arrays = [_column(columns[field.name], field.type) for field in schema]
        writer.write_table(pa.table(arrays, schema=schema))

    with pq.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd") as writer:
        yield write


def write_table(folder: Path, name: str, columns: Mapping[str, Any]) -> None:
    """Write a table in its schema; a missing, extra or ill-typed column is a bug and raises."""
    with table_writer(folder, name) as write:
        write(columns)


def write_json(path: Path, data: Any) -> None:
    """Readable JSON, in place only when complete."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file, in place only when complete."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _column(values: Any, type_: pa.DataType) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(type_)
    return pa.array(values, type=type_)


def _files(path: Path) -> list[str]:
    names = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return sorted(str(name) for name in names if name.parts[0] != SCRATCH)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _check_file(path: Path, entry: dict[str, Any], command: str) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing, though its manifest lists it. Re-run: {command}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise UserError(f"{path} has {size} bytes, its manifest says {entry['bytes']}. Re-run: {command}")
    if size <= HASH_LIMIT and _describe(path)["sha256"] != entry["sha256"]:
        raise UserError(f"{path} was changed after it was written. Re-run: {command}")


def _short(digest: str | None) -> str:
    return f"version {digest[:8]}" if digest else "of unknown version"
