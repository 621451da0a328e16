"""What every scheme that makes identifiers owes: the same for the same seed, unique, and a path for every item."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ilrec_cli import plugins
from ilrec_cli.trie import ItemTrie

ITEMS = 150
MADE = [name for name in plugins.names("ids") if plugins.load("ids", name).NEEDS_VECTORS]


def items_and_vectors() -> tuple[pa.Table, np.ndarray]:
    """Items in tight clusters, two of them with the very same vector."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(9, 12)) * 3)[rng.integers(9, size=ITEMS)] + rng.normal(size=(ITEMS, 12)) * 0.2
    vectors[7] = vectors[3]
    names = [f"item-{number}" for number in range(ITEMS)]
    return pa.table({"item": range(ITEMS), "raw_id": names, "source_id": names}), vectors.astype(np.float32)


def assign(name: str, seed: int = 0) -> Any:
    plugin = plugins.load("ids", name)
    return plugins.part(plugin, "assign").assign(*items_and_vectors(), plugin.Config(), np.random.default_rng(seed))


@pytest.mark.parametrize("name", MADE)
def test_the_same_for_the_same_seed_only(name: str) -> None:
    assert assign(name).tokens == assign(name).tokens
    assert assign(name).tokens != assign(name, seed=1).tokens


@pytest.mark.parametrize("name", MADE)
def test_every_item_has_a_path_of_its_own(name: str) -> None:
    found = assign(name)
    assert len(found.tokens) == len(found.codes) == ITEMS
    numbers: dict[str, int] = {}
    for path in found.tokens:
        for token in path:
            numbers.setdefault(token, len(numbers) + 1)
    trie = ItemTrie.build([[*(numbers[token] for token in path), 0] for path in found.tokens])
    leaves = np.asarray(trie.leaf_of(np.arange(ITEMS)))
    assert len(set(leaves.tolist())) == ITEMS
    node = np.zeros(ITEMS, dtype=np.int64)
    for depth in range(max(map(len, found.tokens)) + 1):
        token = np.array([numbers[path[depth]] if depth < len(path) else 0 for path in found.tokens])
        going = np.asarray(trie.is_leaf(node)) == 0
        node[going] = np.asarray(trie.step(node, token))[going]
    assert (node == leaves).all(), "walking an item's own tokens ends at its own leaf"


@pytest.mark.parametrize("name", MADE)
def test_a_token_belongs_to_one_level(name: str) -> None:
    levels: dict[str, set[int]] = {}
    for path in assign(name).tokens:
        for level, token in enumerate(path):
            levels.setdefault(token, set()).add(level)
    assert all(len(found) == 1 for found in levels.values())
