"""Which examples form which batch: a function of lengths, seed and epoch alone, so a resumed run sees the same ones."""

from __future__ import annotations

import numpy as np

POOL = 32  # batches' worth of examples that are sorted by length together


def epoch_batches(length_E: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of every batch of an epoch: shuffled, like lengths together, batches in random order; the last is smaller."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(length_E))
    pools = [order[start : start + size * POOL] for start in range(0, len(order), size * POOL)]
    grouped = [rows[np.argsort(length_E[rows], kind="stable")] for rows in pools]
    batches = [rows[start : start + size] for rows in grouped for start in range(0, len(rows), size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def steps_per_epoch(examples: int, size: int) -> int:
    """How many batches `epoch_batches` makes."""
    full, rest = divmod(examples, size * POOL)
    return full * POOL + -(-rest // size)


def share(rows: np.ndarray, size: int | None, rank: int, world: int) -> list[np.ndarray]:
    """One process's part of a batch as micro-batches of at most `size`; equally many on every process, some empty."""
    largest = -(-len(rows) // world)
    count = -(-largest // (size or largest))
    return np.array_split(rows[rank::world], count)
