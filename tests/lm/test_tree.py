"""One tree behind each prompt, on every kind of attention: hidden states are those of sequences run one by one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, family, llama
from searching import END, by_generate, exhaustive, prompts

from ilrec_cli.lm import tree
from ilrec_cli.lm.decode import beam_search
from ilrec_cli.lm.early_exit import early_exit
from ilrec_cli.lm.exact import exact_scores
from ilrec_cli.lm.tree import Copies, Tree, takes_trees
from ilrec_cli.trie import ItemTrie

FAMILIES = {
    "llama": ("Llama", {}), "qwen2": ("Qwen2", {}), "qwen3": ("Qwen3", {"head_dim": 8}), "mistral": ("Mistral", {}),
    "gemma": ("Gemma", {}), "gemma2": ("Gemma2", {}), "gemma3": ("Gemma3", {}), "phi3": ("Phi3", {}),
    "eager": ("Llama", {"attn_implementation": "eager"}),
}  # fmt: skip
WINDOWED = {
    "qwen2-all": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}),
    "qwen2-some": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "gemma2": ("Gemma2", {"sliding_window": 5}),
    "gemma3": ("Gemma3", {"sliding_window": 5, "sliding_window_pattern": 2}),
}


def compare_with_exhaustive(model: Any, **search: Any) -> None:
    rng = np.random.default_rng(3)
    paths = brute_force_paths(rng, 30, range(3, 9), 4, END)
    trie = ItemTrie.build(paths)
    ids, mask = prompts(rng, 3)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=40)
    leaf_L, exact_BL = exact_scores(model, ids, mask, trie)
    for row in range(3):
        with torch.no_grad():
            expected = exhaustive(model, ids[row : row + 1], mask[row : row + 1], trie, paths, "vocab")
        found = dict(zip(leaf_BK[row].tolist(), score_BK[row].tolist(), strict=True))
        found.pop(-1, None)
        assert found == pytest.approx(expected, abs=1e-4)
        assert dict(zip(leaf_L.tolist(), exact_BL[row].tolist(), strict=True)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_search_and_exact_scores_are_right_in_every_family(name: str) -> None:
    model = family(FAMILIES[name][0], **FAMILIES[name][1])
    assert takes_trees(model)
    compare_with_exhaustive(model)


@pytest.mark.parametrize("name", WINDOWED)
def test_prompts_longer_than_a_sliding_window(name: str) -> None:
    compare_with_exhaustive(family(WINDOWED[name][0], **WINDOWED[name][1]))


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_copying_gives_the_same_and_says_so_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "takes_trees", lambda model: False)
    model = family(FAMILIES[name][0], **FAMILIES[name][1])
    with pytest.warns(UserWarning, match="copied"):
        compare_with_exhaustive(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare_with_exhaustive(model)


def test_a_model_with_alibi_is_found_to_need_copies() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    model = BloomForCausalLM(
        BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    ).eval()
    assert not takes_trees(model)


def test_a_subtree_at_once_is_the_subtree_level_by_level() -> None:
    model = llama()
    ids, mask = prompts(np.random.default_rng(0), 2)
    token_W, depth_W = torch.tensor([5, 6, 7, 8]), torch.tensor([0, 0, 1, 2])
    ancestors = torch.eye(4, dtype=torch.bool)
    ancestors[2, 1] = ancestors[3, 2] = ancestors[3, 1] = True
    with torch.inference_mode():
        whole, copied = Tree(model, ids, mask, 4), Copies(model, ids, mask)
        first = whole.branches(token_W, depth_W, ancestors)
        torch.testing.assert_close(whole.branches(token_W, depth_W, ancestors), first)
        torch.testing.assert_close(copied.branches(token_W, depth_W, ancestors), first, rtol=0, atol=1e-5)
        torch.testing.assert_close(copied.branches(token_W, depth_W, ancestors), first, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", ["vocab", "ids", "trie"])
def test_exact_scores_do_not_depend_on_the_size_of_parts(normalize: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ilrec_cli.lm import exact

    rng = np.random.default_rng(1)
    model, trie = llama(), ItemTrie.build(brute_force_paths(rng, 300, range(3, 9), 5, END))
    ids, mask = prompts(rng, 2)
    leaf_L, whole_BL = exact_scores(model, ids, mask, trie, normalize=normalize)
    monkeypatch.setattr(exact, "NODES", 128)  # 64 at a time
    monkeypatch.setattr(exact, "FLOATS", 320)
    torch.testing.assert_close(
        exact_scores(model, ids, mask, trie, normalize=normalize)[1], whole_BL, rtol=0, atol=1e-5
    )
    assert len(leaf_L) > 200
    if normalize == "trie":  # a distribution over the catalogue
        torch.testing.assert_close(whole_BL.exp().sum(1), torch.ones(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", ["vocab", "ids", "trie"])
@pytest.mark.parametrize("paths", [[[5, 1]], [[3], [4]], [[3, 1], [4, 1]], [[3], [4, 5], [4, 6, 1]]])
def test_catalogues_with_nothing_to_run_behind_the_prompt(paths: list[list[int]], normalize: Any) -> None:
    """Paths of one token; and over the trie, items that their first token settles."""
    model, trie = llama(), ItemTrie.build(paths)
    ids, mask = prompts(np.random.default_rng(0), 3)
    leaf_L, exact_BL = exact_scores(model, ids, mask, trie, normalize=normalize)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=len(paths), normalize=normalize)
    order_BK = leaf_BK.argsort(1)
    assert leaf_BK.gather(1, order_BK).tolist() == [leaf_L.tolist()] * 3
    torch.testing.assert_close(score_BK.gather(1, order_BK), exact_BL, rtol=0, atol=1e-5)


def test_an_early_exit_runs_fewer_blocks_and_gives_phi_of_that_layer() -> None:
    model = llama(layers=4)
    ids = torch.tensor([[3, 4, 5]])
    short = early_exit(model, 2)
    with torch.no_grad():
        inner = model(input_ids=ids, output_hidden_states=True).hidden_states[2]
        expected = model.lm_head(model.model.norm(inner))
        torch.testing.assert_close(short(input_ids=ids).logits, expected)
    assert len(short.model.layers) == 2
    assert len(model.model.layers) == 4
    rng = np.random.default_rng(0)
    trie = ItemTrie.build(brute_force_paths(rng, 60, range(3, 14), 3, END))
    ids, mask = prompts(rng, 3)
    leaf_BK, score_BK = beam_search(short, ids, mask, trie, beams=5)
    leaves, scores = by_generate(short, ids, mask, trie, 5)
    assert leaf_BK.tolist() == leaves
    torch.testing.assert_close(score_BK, scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "Gemma3"])
def test_a_lead_that_all_prompts_share_is_run_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    model, trie = family(name), ItemTrie.build(brute_force_paths(rng, 60, range(3, 14), 3, END))
    lead, rest = torch.arange(3, 12), [rng.integers(3, 60, size=size).tolist() for size in (6, 1, 4)]
    mask = torch.tensor([[0] * (6 - len(row)) + [1] * (9 + len(row)) for row in rest])
    ids = torch.tensor([[2] * (6 - len(row)) + lead.tolist() + row for row in rest])
    seen = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, arguments, words: seen.append(tuple(words["input_ids"].shape)), with_kwargs=True
    )
    shared = beam_search(model, ids, mask, trie, beams=6)
    assert {(1, 9), (3, 6)} <= set(seen)
    monkeypatch.setattr(tree, "WORTH_SHARING", 99)
    seen.clear()
    alone = beam_search(model, ids, mask, trie, beams=6)
    assert (3, 15) in seen
    hook.remove()
    assert torch.equal(shared[0], alone[0])
    torch.testing.assert_close(shared[1], alone[1], rtol=0, atol=1e-5)
    monkeypatch.undo()
    same = beam_search(model, ids[:1].expand(3, -1), mask[:1].expand(3, -1), trie, beams=6)  # the same prompt thrice
    assert torch.equal(same[0], alone[0][:1].expand(3, -1))


def test_dead_branches_and_finished_prompts_are_dropped_and_nothing_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[END] *= 2.0  # prompts finish at different depths
    paths = brute_force_paths(rng, 400, range(3, 6), 12, END)
    trie = ItemTrie.build(paths)
    ids, mask = prompts(rng, 8)
    dropped: dict[str, int] = {"rows": 0, "tokens": 0}

    def counted(name: str, function: Any) -> Any:
        def call(self: Any, given: Any) -> Any:
            found = function(self, given)
            dropped[name] += found is None or found.shape[2] < given.shape[2]
            return found

        return call

    monkeypatch.setattr(Tree, "select", counted("rows", Tree.select))
    monkeypatch.setattr(Tree, "_pruned", counted("tokens", Tree._pruned))
    found = beam_search(model, ids, mask, trie, beams=3)
    assert dropped["rows"] > 0
    assert dropped["tokens"] > 0
    monkeypatch.setattr(Tree, "_pruned", lambda self, ancestors: ancestors)
    expected = beam_search(model, ids, mask, trie, beams=3, step_scores=lambda node, token, log_prob: log_prob)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)
    monkeypatch.setattr(tree, "takes_trees", lambda model: False)
    tree._TAKES_TREES.clear()
    with pytest.warns(UserWarning, match="copied"):
        copied = beam_search(model, ids, mask, trie, beams=3)
    tree._TAKES_TREES.clear()
    assert torch.equal(copied[0], expected[0])


def test_memory_that_ran_out_says_nothing_about_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error, and the next search finds out whether trees are taken."""
    model, trie = llama(), ItemTrie.build([[5, 7, END], [6, END]])
    ids, mask = prompts(np.random.default_rng(0), 2)

    def refused(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as full:
        full.setattr(Tree, "extend", refused)
        with pytest.raises(torch.OutOfMemoryError):
            beam_search(model, ids, mask, trie, beams=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beam_search(model, ids, mask, trie, beams=2)
