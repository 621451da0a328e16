"""Candidate sets for ranking tasks: a target among items that its user never interacted with."""

from __future__ import annotations

import numpy as np

from ilrec_cli.histories import Sequences


def candidate_sets(
    sequences: Sequences, user_E: np.ndarray, target_E: np.ndarray, negatives: int, items: int, rng: np.random.Generator
) -> np.ndarray:
    """candidates_EC, C = negatives + 1: distinct items in random order, the target among them.

    Negatives are drawn uniformly from the items that the user has no interaction with, before or after the target;
    as S-DPO does (arXiv 2406.09215) but for the later ones. `ValueError` where a user leaves too few.
    """
    seen = np.unique(np.repeat(np.arange(len(sequences)), sequences.lengths) * items + sequences.items)
    free = items - np.bincount(seen // items, minlength=len(sequences))
    if len(user_E) and free[user_E].min() < negatives:
        raise ValueError(
            f"{negatives} negatives asked for, but a user leaves only {int(free[user_E].min())} of {items} items"
        )
    drawn = np.full((len(user_E), negatives), -1, dtype=np.int64)
    open_E, open_C = np.nonzero(drawn < 0)
    while len(open_E):
        drawn[open_E, open_C] = rng.integers(items, size=len(open_E))
        bad = _known(seen, user_E[:, None] * items + drawn) | _repeated(drawn)
        open_E, open_C = np.nonzero(bad)
    table = np.concatenate([target_E[:, None], drawn], axis=1)
    return np.take_along_axis(
        table, rng.permuted(np.broadcast_to(np.arange(negatives + 1), table.shape), axis=1), axis=1
    )


def _known(seen: np.ndarray, key: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(seen, key), len(seen) - 1)
    return np.asarray(seen[place] == key)


def _repeated(drawn_EC: np.ndarray) -> np.ndarray:
    """True for every later occurrence of an item in its row."""
    order = np.argsort(drawn_EC, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn_EC, order, axis=1)
    again = np.zeros_like(drawn_EC, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again
