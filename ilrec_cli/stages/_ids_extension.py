"""New items beside old ones: greedy codes from the frozen codebooks, then free leaves; old paths never change.

Shapes: O old items (then those that are gone), N new ones, L levels, D dimensions of a latent.
"""

from __future__ import annotations

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
