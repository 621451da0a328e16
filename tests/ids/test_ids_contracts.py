"""What every scheme that quantises vectors owes: the same for the same seed, whatever the order, later items included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ilrec_cli import plugins, presets
from ilrec_cli.ids import _settle
from ilrec_cli.ids._assignment import to_matrix
from ilrec_cli.ids._quality import uniqueness
from ilrec_cli.ids._quantise import Job, Quantised, greedy
from ilrec_cli.trie import ItemTrie

ITEMS = 150
QUANTISING = [name for name in plugins.names("ids") if plugins.load("ids", name).QUANTISES]


def vectors() -> np.ndarray:
    """Items in tight clusters, three of them with the very same vector."""
    rng = np.random.default_rng(0)
    found = (rng.normal(size=(9, 12)) * 3)[rng.integers(9, size=ITEMS)] + rng.normal(size=(ITEMS, 12)) * 0.2
    found[[7, 90]] = found[3]
    return found.astype(np.float32)


def fit(name: str, vectors_ID: np.ndarray, seed: int = 0, **options: Any) -> Quantised:
    plugin = plugins.load("ids", name)
    options = {**FAST.get(name, {}), **options}
    return plugins.part(plugin, "quantise").fit(
        vectors_ID, plugin.Config(**options), np.random.default_rng(seed), Job()
    )


# Options with which a scheme that trains is quick.
FAST: dict[str, dict[str, Any]] = {
    "rqvae": {"levels": 3, "codes": 8, "code_size": 8, "hidden": (16,), "epochs": 20},
}


@pytest.mark.parametrize("name", QUANTISING)
def test_the_same_for_the_same_seed_only(name: str) -> None:
    first = fit(name, vectors())
    assert (first.code_IL == fit(name, vectors()).code_IL).all()
    assert (first.code_IL != fit(name, vectors(), seed=1).code_IL).any()


@pytest.mark.parametrize("name", QUANTISING)
def test_permuted_items_have_permuted_codes_and_paths(name: str) -> None:
    order = np.random.default_rng(1).permutation(ITEMS)
    straight, shuffled = fit(name, vectors()), fit(name, vectors()[order])
    assert (shuffled.code_IL == straight.code_IL[order]).all()
    paths = _settle.quantised(straight, "resolve", np.arange(ITEMS)).tokens.to_pylist()
    again = _settle.quantised(shuffled, "resolve", order).tokens.to_pylist()
    assert again == [paths[item] for item in order]


@pytest.mark.parametrize("name", QUANTISING)
def test_later_items_get_the_codes_that_the_same_vectors_got(name: str) -> None:
    plugin, found = plugins.load("ids", name), fit(name, vectors())
    config = plugin.Config(**FAST.get(name, {}))
    latent_ID = plugins.part(plugin, "quantise").latent(vectors()[:20], found.weights, config)
    np.testing.assert_allclose(latent_ID, found.latent_ID[:20], atol=1e-5)
    assert (greedy(latent_ID, found.codebook_LKD)[0] == found.code_IL[:20]).all()
    assert latent_ID.dtype == np.float32


@pytest.mark.parametrize("name", QUANTISING)
def test_every_item_has_a_path_of_its_own_through_the_trie(name: str) -> None:
    found = _settle.quantised(fit(name, vectors()), "resolve", np.arange(ITEMS))
    assert uniqueness(to_matrix(found.tokens))["colliding_items"] == 0
    path_ID = to_matrix(found.tokens) + 1  # 0 ends every path
    trie = ItemTrie.build([[*path[path > 0].tolist(), 0] for path in path_ID])
    leaves = np.asarray(trie.leaf_of(np.arange(ITEMS)))
    assert len(set(leaves.tolist())) == ITEMS
    node = np.zeros(ITEMS, dtype=np.int64)
    for token in (*path_ID.T, np.zeros(ITEMS, dtype=np.int64)):
        going = np.asarray(trie.is_leaf(node)) == 0
        node[going] = np.asarray(trie.step(node, token))[going]
    assert (node == leaves).all(), "walking an item's own tokens ends at its own leaf"


@pytest.mark.parametrize("name", QUANTISING)
def test_a_token_belongs_to_one_level(name: str) -> None:
    levels: dict[str, set[int]] = {}
    for path in _settle.quantised(fit(name, vectors()), "resolve", np.arange(ITEMS)).tokens.to_pylist():
        for level, token in enumerate(path):
            levels.setdefault(token, set()).add(level)
    assert all(len(found) == 1 for found in levels.values())


@pytest.mark.parametrize("name", QUANTISING)
def test_the_parts_fit_together(name: str) -> None:
    found = fit(name, vectors())
    assert found.code_IL.shape == (ITEMS, len(found.codebook_LKD))
    assert found.latent_ID.dtype == np.float32
    for code_I, codebook_KD in zip(found.code_IL.T, found.codebook_LKD, strict=True):
        assert codebook_KD.dtype == np.float32
        assert codebook_KD.shape[1] == found.latent_ID.shape[1]
        assert 0 <= code_I.min() <= code_I.max() < len(codebook_KD)


@pytest.mark.parametrize("name", plugins.names("ids"))
def test_presets_are_settings_of_the_scheme(name: str) -> None:
    plugin = plugins.load("ids", name)
    for preset in presets.known(plugin):
        assert plugin.Config(**presets.chosen(plugin, preset))
