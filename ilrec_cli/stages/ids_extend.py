"""New items -> identifiers from frozen codebooks: of newer data as an artifact, of a table of items as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ilrec_cli import artifacts, folders, plugins
from ilrec_cli.console import Console
from ilrec_cli.datasets._faults import Faults
from ilrec_cli.datasets._raw import Reading
from ilrec_cli.errors import UserError
from ilrec_cli.ids._assignment import from_codes
from ilrec_cli.ids._collisions import Space
from ilrec_cli.settings import ExtendIds
from ilrec_cli.stages import _ids_artifact, _ids_extension, _inputs, _text_vectors, _vectors
from ilrec_cli.stages._ids_extension import Frozen, Known


def run(config: ExtendIds) -> dict[str, Any]:
    """Write WORK/DATASET/ids/NAME, or with --items a file."""
    console = Console.of(config)
    ids = _inputs.find_ids(config, config.ids)
    frozen = Frozen.read(ids)
    known = {raw_id: place for place, raw_id in enumerate(ids.table("item_ids")["raw_id"].to_pylist())}
    return (_of_table if config.items else _of_data)(config, frozen, known, console)


def _of_table(config: ExtendIds, frozen: Frozen, known: Known, console: Console) -> dict[str, Any]:
    """A line of JSON for every item of the table, in its order: raw_id, codes, tokens, whether it is new by this call."""
    assert config.items is not None
    target = config.output or _inputs.dataset_dir(config) / f"{config.items.stem}.ids.jsonl"
    with _inputs.output_file(target, overwrite=config.overwrite):
        return _written(config, target, frozen, known, console)


def _written(config: ExtendIds, target: Path, frozen: Frozen, known: Known, console: Console) -> dict[str, Any]:
    assert config.items is not None
    frozen, known = _ids_extension.with_taken(frozen, known, config.taken)
    reading = Reading(Faults(advice="Mend or delete the line"))
    items = plugins.part(plugins.load("datasets", "table"), "load").described_items(config.items, reading).to_arrow()
    path_ID, notes, _ = _paths(config, frozen, known, items, console)
    found = from_codes(path_ID, {})
    raw_ids = items["raw_id"].to_pylist()
    rows = zip(raw_ids, found.codes.to_pylist(), found.tokens.to_pylist(), strict=True)
    lines = [
        json.dumps({"raw_id": raw_id, "codes": codes, "tokens": tokens, "new": raw_id not in known}, ensure_ascii=False)
        for raw_id, codes, tokens in rows
    ]
    artifacts.write_text(target, "\n".join([*lines, ""]))
    _say(notes, console)
    console.say(f"\nWritten: {target}")
    if notes["new_items"]:
        written = ",".join(map(str, [*config.taken, target]))
        console.say(f"Another table knows nothing of this one; for paths that differ from these: --taken {written}")
    return {"path": str(target), "items": len(lines), **notes}


def _of_data(config: ExtendIds, frozen: Frozen, known: Known, console: Console) -> dict[str, Any]:
    """Identifiers of the newer data: an artifact like the old one, that can be extended again."""
    data, ids = _inputs.read_data(config), frozen.ids
    items = data.table("items")
    if ids.manifest["parents"]["data"] == data.digest:
        raise UserError(
            f"'{ids.name}' has all items of {data.path}. Preprocess the newer data first, or give --items FILE"
        )
    name = config.name or f"{ids.name}-{data.digest[:8]}"
    target = _inputs.dataset_dir(config) / "ids" / folders.plain_name(name, "--name")
    if artifacts.exists(target) and (not config.overwrite or target.resolve() == ids.path.resolve()):
        raise UserError(f"{target} is there already. Choose another --name{', or --overwrite it' * (name != ids.name)}")
    path_ID, notes, vectors_ID = _paths(config, frozen, known, items, console)
    old_I = _old_rows(items, known)
    encoded = _text_vectors.extended(ids, vectors_ID)
    assignment = from_codes(
        path_ID, {"extended_from": ids.name, **notes, **_reconstruction(frozen, path_ID, vectors_ID)}
    )
    tensors = _ids_artifact.tensors_of(frozen.codebook_LKD, frozen.weights)
    gone = np.delete(frozen.path_OL, old_I[old_I >= 0], axis=0)
    made = _ids_artifact.Made(
        assignment, encoded, tensors | {_ids_artifact.RETIRED: {"paths": gone} if len(gone) else {}}
    )
    figures = _ids_artifact.write(
        target, made, data, config={**ids.config, "extended_from": ids.name}, seed=ids.manifest["seed"],
        parents={"data": data, "ids": ids},
    )  # fmt: skip
    _say(notes, console)
    _ids_artifact.show(name, figures, console)
    console.say(f"\nIdentifiers: {target}\nNext: ilrec train {_inputs.flags(config)} --ids {name}")
    return {"path": str(target), "name": name, "digest": artifacts.read(target, "ids").digest, **figures}


def _paths(
    config: ExtendIds, frozen: Frozen, known: Known, items: pa.Table, console: Console
) -> tuple[np.ndarray, dict[str, Any], np.ndarray]:
    """(path_ID, what it took, vectors_ID) of all these items: old ones as they were, new ones settled."""
    old_I = _old_rows(items, known)
    if (old_I < 0).all() and config.items is None:
        raise UserError(
            f"'{frozen.ids.name}' has none of the {len(items):,} items of {config.dataset}: is it of other data?"
        )
    new = np.flatnonzero(old_I < 0)
    # New items are filled in below; those of --taken have paths, and of a table nobody asks for vectors.
    vectors_ID = np.take(_text_vectors.embeddings(frozen.ids), old_I, axis=0, mode="clip")
    path_ID = frozen.path_OL[np.maximum(old_I, 0)]
    notes: dict[str, Any] = {"rule": frozen.ids.config["collisions"]}
    if len(new):
        vectors_ID[new] = _vectors.encode_later(
            items.take(pa.array(new)), frozen.ids, console, vectors=config.vectors, vectors_ids=config.vectors_ids,
            device=config.device, batch_size=config.batch_size,
        )  # fmt: skip
        raw_ids = items["raw_id"].to_pylist()
        key_N = np.argsort(np.argsort(np.array([raw_ids[item] for item in new])))
        path_ID[new] = -1
        path_ID[new, : len(frozen.codebook_LKD)], notes = _ids_extension.settle(frozen, vectors_ID[new], key_N)
    return path_ID, {"new_items": len(new), "old_items": len(items) - len(new), "collisions": notes}, vectors_ID


def _old_rows(items: pa.Table, known: Known) -> np.ndarray:
    """The place of every item among the old ones; -1 for new ones."""
    return np.array([known.get(raw_id, -1) for raw_id in items["raw_id"].to_pylist()], dtype=np.int64)


def _reconstruction(frozen: Frozen, path_ID: np.ndarray, vectors_ID: np.ndarray) -> dict[str, Any]:
    space = Space(frozen.latent(vectors_ID), frozen.codebook_LKD)
    return {"reconstruction": space.error(path_ID[:, : len(frozen.codebook_LKD)])}


def _say(notes: dict[str, Any], console: Console) -> None:
    taken = notes["collisions"].get("colliding_items_before", 0)
    console.say(
        f"{notes['old_items']:,} items keep their identifiers, {notes['new_items']:,} are new; "
        f"{taken:,} of them found their path taken or shared"
    )
