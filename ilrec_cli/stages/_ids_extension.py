"""New items beside old ones: greedy codes from the frozen codebooks, then free leaves; old paths never change.

Shapes: O old items (then those that are gone, then those written to files before), N new ones, L levels, D dimensions of a latent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.ids._assignment import to_matrix
from ilrec_cli.ids._collisions import Space, resolve
from ilrec_cli.ids._quality import shared, uniqueness
from ilrec_cli.ids._quantise import greedy
from ilrec_cli.stages import _ids_artifact

REFUSED = {
    "lcrec_index": "an import has no codebooks. Extend it where it was made, and import it again",
    "title": "a title is its own identifier. Run: ilrec build-ids --scheme title on the newer data; old items keep theirs",
}


Known = dict[str, int]  # original id -> place among the items that have paths


class Frozen(NamedTuple):
    """Identifiers whose codebooks new items are to use."""

    ids: Artifact
    scheme: Any
    options: Any
    codebook_LKD: list[np.ndarray]
    weights: dict[str, np.ndarray]
    path_OL: np.ndarray  # padded with -1: a suffix where an item has one

    @classmethod
    def read(cls, ids: Artifact) -> Frozen:
        """`UserError` for identifiers that were not made by quantising vectors."""
        name = ids.config["scheme"]
        scheme = plugins.load("ids", name)
        if not scheme.QUANTISES:
            raise UserError(f"'{ids.name}' cannot be extended: {REFUSED[name]}")
        options = configs.build(scheme.Config, ids.config["options"], f"ID scheme '{name}'")
        codes = ids.table("item_ids")["codes"].combine_chunks()
        path_OL, gone = to_matrix(codes), _ids_artifact.retired(ids)
        width = max(path_OL.shape[1], gone.shape[1])
        every = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in (path_OL, gone)]
        return cls(ids, scheme, options, *_ids_artifact.read(ids), np.concatenate(every))

    def latent(self, vectors_ND: np.ndarray) -> np.ndarray:
        """What the codebooks quantise."""
        found: np.ndarray = plugins.part(self.scheme, "quantise").latent(vectors_ND, self.weights, self.options)
        return found


def with_taken(frozen: Frozen, known: Known, files: tuple[Path, ...]) -> tuple[Frozen, Known]:
    """Identifiers and their items with those that were written to these files before: their paths are taken too."""
    sizes = [len(codebook_KD) for codebook_KD in frozen.codebook_LKD]
    found: dict[str, list[int]] = {}
    for path in files:
        for number, (raw_id, codes) in enumerate(_written(path), 1):
            before = frozen.path_OL[known[raw_id]].tolist() if raw_id in known else found.get(raw_id, codes)
            if [code for code in before if code >= 0] != codes:
                raise UserError(f"--taken {path}:{number}: item '{raw_id}' has another path by now, {before}")
            if raw_id not in known:
                if len(codes) != len(sizes) or not all(
                    0 <= code < size for code, size in zip(codes, sizes, strict=True)
                ):
                    raise UserError(f"--taken {path}:{number}: {codes} is no path of '{frozen.ids.name}'")
                found[raw_id] = codes
    if not found:
        return frozen, known
    taken = np.pad(list(found.values()), ((0, 0), (0, frozen.path_OL.shape[1] - len(sizes))), constant_values=-1)
    places = {raw_id: len(frozen.path_OL) + place for place, raw_id in enumerate(found)}
    return frozen._replace(path_OL=np.concatenate([frozen.path_OL, taken])), {**known, **places}


def _written(path: Path) -> Iterator[tuple[str, list[int]]]:
    """(original id, codes) of every line of a file that `ids extend --items` wrote."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"--taken {path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            yield str(row["raw_id"]), [int(code) for code in row["codes"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"--taken {path}:{number}: expected a line that ilrec ids extend --items wrote, with raw_id and codes"
            ) from error


def settle(frozen: Frozen, vectors_ND: np.ndarray, key_N: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """(code_NL, what it took): paths for new items that no old item has; `key_N` ranks them.

    Where the old identifiers keep collisions, new ones may collide too. `UserError` when no leaf is free.
    """
    latent_ND = frozen.latent(vectors_ND)
    code_NL, _ = greedy(latent_ND, frozen.codebook_LKD)
    old_OL, count = frozen.path_OL[:, : code_NL.shape[1]], len(frozen.path_OL)
    code_AL = np.concatenate([old_OL, code_NL])  # A: all items, the old ones first
    notes = {
        "rule": frozen.ids.config["collisions"],
        "colliding_items_before": int(shared(code_AL)[count:].sum()),
        "collision_rate_before": uniqueness(code_AL)["collision_rate"],
    }
    if notes["rule"] == "keep":
        return code_NL, notes
    space = Space(np.concatenate([np.zeros((count, latent_ND.shape[1]), np.float32), latent_ND]), frozen.codebook_LKD)
    key_A = np.concatenate([np.arange(count), count + key_N])
    settled_AL, steps = resolve(code_AL, space, key_A, np.arange(len(code_AL)) < count)
    if steps["with_suffix"]:
        raise UserError(
            f"'{frozen.ids.name}': every one of its {np.prod([len(each) for each in frozen.codebook_LKD]):,} paths is "
            "taken. Build new identifiers with more codes or levels"
        )
    return settled_AL[count:], {**notes, **steps}
