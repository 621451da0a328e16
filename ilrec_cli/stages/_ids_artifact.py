"""What an artifact of identifiers holds: paths, vectors, codebooks, and the weights that map later items to latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.ids._assignment import Assignment
from ilrec_cli.stages import _ids_folder, _ids_quality
from ilrec_cli.stages._text_vectors import Encoded

Tensors = dict[str, dict[str, np.ndarray]]  # file -> name -> tensor
CODEBOOKS, WEIGHTS, RETIRED = "codebooks", "weights", "retired"


@dataclass(frozen=True)
class Made:
    """Paths, and for schemes that quantise what later items need."""

    assignment: Assignment
    encoded: Encoded | None = None
    tensors: Tensors = field(default_factory=dict)
    log: str = ""


def tensors_of(codebook_LKD: list[np.ndarray], weights: dict[str, np.ndarray]) -> Tensors:
    """Codebooks by level, and the weights of the map from vectors to latents."""
    return {CODEBOOKS: {f"level_{level}": each for level, each in enumerate(codebook_LKD)}, WEIGHTS: weights}


def read(ids: Artifact) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """(codebook_LKD, weights) of identifiers that were made by quantising."""
    found = {name: _load(ids.path / f"{name}.safetensors") for name in (CODEBOOKS, WEIGHTS)}
    codebooks = found[CODEBOOKS]
    return [codebooks[f"level_{level}"] for level in range(len(codebooks))], found[WEIGHTS]


def retired(ids: Artifact) -> np.ndarray:
    """Paths (padded with -1) of items that were there before these identifiers were extended, and are no longer."""
    found = _load(ids.path / f"{RETIRED}.safetensors")
    return found["paths"] if found else np.zeros((0, 0), dtype=np.int64)


def write(
    target: Path, made: Made, data: Artifact, *, config: dict[str, Any], seed: int, parents: dict[str, Artifact]
) -> dict[str, Any]:
    """The artifact, whole or not at all; its figures."""
    from safetensors.numpy import save_file

    sizes = [len(codebook_KD) for codebook_KD in made.tensors.get(CODEBOOKS, {}).values()]
    vectors_ID = made.encoded.vector_ID if made.encoded else None
    figures = _ids_quality.measure(made.assignment, data, sizes=sizes, vectors_ID=vectors_ID)
    with artifacts.create(target, kind="ids", config=config, seed=seed, parents=parents) as folder:
        items, (codes, tokens, *_) = data.table("items"), made.assignment
        artifacts.write_table(
            folder, "item_ids", {"item": items["item"], "raw_id": items["raw_id"], "codes": codes, "tokens": tokens}
        )
        if made.encoded:
            made.encoded.write(folder)
        for name, found in made.tensors.items():
            if found:
                contiguous = {key: np.ascontiguousarray(tensor) for key, tensor in found.items()}
                save_file(contiguous, str(folder / f"{name}.safetensors"))
        artifacts.write_json(folder / "quality.json", figures)
        if made.log:
            artifacts.write_text(folder / _ids_folder.LOG, made.log)
    return figures


def show(title: str, figures: dict[str, Any], console: Console) -> None:
    """The short form, for whoever made them; `ilrec ids report` has the rest."""
    collisions = figures["collisions"]
    rows = [
        ("items", figures["items"]),
        ("distinct paths", figures["distinct_paths"]),
        ("items that collide", figures["colliding_items"]),
    ]
    if collisions["rule"] != "keep":
        rows.append((f"  before --collisions {collisions['rule']}", collisions["colliding_items_before"]))
    for name in ("moved_within_prefix", "moved_elsewhere", "with_suffix"):
        if collisions.get(name):
            rows.append((f"  {name.replace('_', ' ')}", collisions[name]))
    rows.append(("codes per level", " / ".join(f"{level['used']:,}" for level in figures["levels"])))
    rows.append(("prefixes per depth", " / ".join(f"{count:,}" for count in figures["prefixes_per_depth"])))
    if "reconstruction" in figures:
        rows.append(("error, share of the variance", figures["reconstruction"]["relative"]))
    console.table([title, ""], rows)


def _load(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(str(path))) if path.is_file() else {}
