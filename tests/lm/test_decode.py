"""Beam search against transformers' own, against exhaustive scoring, and its rules for ties and short supply."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import brute_force_paths, family, llama
from torch import Tensor

from ilrec_cli.errors import UserError
from ilrec_cli.lm.decode import beam_search, expand
from ilrec_cli.trie import ItemTrie

VOCABULARY, END, PAD = 60, 1, 2


def prompts(rng: Any, count: int, longest: int = 9) -> tuple[Tensor, Tensor]:
    """Left-padded random prompts of mixed length."""
    length_B = rng.integers(2, longest + 1, size=count)
    length_B[0] = longest
    mask_BS = torch.from_numpy(np.arange(longest) >= longest - length_B[:, None]).long()
    ids = torch.from_numpy(rng.integers(3, VOCABULARY, size=(count, longest)))
    return torch.where(mask_BS.bool(), ids, PAD), mask_BS


def by_generate(model: Any, ids: Tensor, mask: Tensor, trie: ItemTrie, beams: int) -> tuple[list[list[int]], Tensor]:
    """Leaves and scores of transformers' beam search with a prefix function."""
    from transformers import GenerationConfig

    start = ids.shape[1]

    def allowed(_: int, sequence: Tensor) -> list[int]:
        node = torch.tensor([0])
        for token in sequence[start:]:
            node = trie.step(node, token[None])
        return [token for token in trie.children(node)[0].flatten().tolist() if token >= 0] or [END]

    settings = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, max_new_tokens=trie.max_depth, length_penalty=0.0,
        early_stopping=False, do_sample=False, eos_token_id=END, pad_token_id=PAD,
        output_scores=True, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    output = model.generate(ids, attention_mask=mask, generation_config=settings, prefix_allowed_tokens_fn=allowed)
    leaves, greedy = [], torch.zeros(len(output.sequences))
    for row, sequence in enumerate(output.sequences[:, start:]):
        node = torch.tensor([0])
        for step, token in enumerate(sequence):
            if not trie.is_leaf(node).item():
                node = trie.step(node, token[None])
                greedy[row] += output.logits[step][row].log_softmax(0)[token] if beams == 1 else 0.0
        leaves.append(node.item())
    count = len(ids)
    scores = greedy if beams == 1 else output.sequences_scores  # one beam is greedy search, which keeps no scores
    return [leaves[row * beams : (row + 1) * beams] for row in range(count)], scores.view(count, beams)


def catalogue(rng: Any, kind: str, items: int = 150) -> ItemTrie:
    if kind == "codes":
        return ItemTrie.build([[*row, END] for row in rng.integers(3, 14, size=(items, 3)).tolist()])
    return ItemTrie.build(brute_force_paths(rng, items, range(3, 14), 6, END))


def trained(model: Any, rng: Any, trie: ItemTrie) -> Any:
    """A model that has learned some of the items by heart: its probabilities are far from even."""
    path = torch.from_numpy(trie._paths(np.arange(20))).clamp(min=END)
    prompt = torch.from_numpy(rng.integers(3, VOCABULARY, size=(20, 4)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model(
            input_ids=torch.cat([prompt, path], 1), labels=torch.cat([prompt.clone().fill_(-100), path], 1)
        ).loss.backward()
        optimizer.step()
    return model.eval()


def compare_with_generate(model: Any, trie: ItemTrie, count: int, beams: int, rng: Any) -> None:
    """Leaves, order up to differences under 1e-5, scores to 1e-4."""
    ids, mask = prompts(rng, count)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=beams)
    leaves, scores = by_generate(model, ids, mask, trie, beams)
    for row in range(count):
        real = scores[row] > -1e8  # otherwise generate ran out of items
        assert (leaf_BK[row][~real] == -1).all()
        torch.testing.assert_close(score_BK[row][real], scores[row][real], rtol=0, atol=1e-4)
        for place in (leaf_BK[row] != torch.tensor(leaves[row])).logical_and(real).nonzero()[:, 0].tolist():
            other = leaves[row].index(leaf_BK[row, place].item())
            assert abs(scores[row, other] - scores[row, place]) < 1e-5


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Mistral", "Gemma2"])
@pytest.mark.parametrize("kind", ["codes", "titles"])
@pytest.mark.parametrize("beams", [1, 5, 20])
def test_equals_generate_with_a_prefix_function(name: str, kind: str, beams: int) -> None:
    rng = np.random.default_rng(beams)
    compare_with_generate(family(name), catalogue(rng, kind), 5, beams, rng)


@pytest.mark.soak
@pytest.mark.parametrize("is_trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma2", "Gemma3"])
@pytest.mark.parametrize("kind", ["codes", "titles"])
@pytest.mark.parametrize("beams", [1, 5, 20, 50])
def test_equals_generate_on_64_prompts(name: str, is_trained: bool, kind: str, beams: int) -> None:
    rng = np.random.default_rng(beams)
    model, trie = family(name), catalogue(rng, kind)
    compare_with_generate(trained(model, rng, trie) if is_trained else model, trie, 64, beams, rng)


def test_equals_generate_after_training() -> None:
    rng = np.random.default_rng(0)
    trie = catalogue(rng, "titles")
    compare_with_generate(trained(llama(), rng, trie), trie, 5, 10, rng)


def exhaustive(
    model: Any, ids: Tensor, mask: Tensor, trie: ItemTrie, paths: list[list[int]], normalize: str
) -> dict[int, float]:
    """Score of every leaf for a single prompt: one full forward per path, softmax over the asked-for tokens."""
    prompt = ids[0][mask[0].bool()].tolist()
    used = sorted({token for path in paths for token in path})
    scores = {}
    for path in {tuple(path) for path in paths}:
        logits = model(input_ids=torch.tensor([prompt + list(path)])).logits[0, len(prompt) - 1 : -1].double()
        total, node = 0.0, torch.tensor([0])
        for step, token in enumerate(path):
            children = [t for t in trie.children(node)[0].flatten().tolist() if t >= 0]
            over = {"vocab": list(range(VOCABULARY)), "ids": used, "trie": children}[normalize]
            total += (logits[step, token] - logits[step, over].logsumexp(0)).item()
            node = trie.step(node, torch.tensor([token]))
        scores[node.item()] = total
    return scores


@pytest.mark.parametrize("normalize", ["vocab", "ids", "trie"])
@torch.no_grad()
def test_equals_scoring_every_item(normalize: Any) -> None:
    rng = np.random.default_rng(1)
    model = llama()
    paths = brute_force_paths(rng, 25, range(3, 9), 3, END)
    trie = ItemTrie.build(paths)
    ids, mask = prompts(rng, 1)
    expected = exhaustive(model, ids, mask, trie, paths, normalize)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=40, normalize=normalize)
    found = {leaf: score for leaf, score in zip(leaf_BK[0].tolist(), score_BK[0].tolist(), strict=True) if leaf >= 0}
    assert found.keys() == expected.keys(), "with enough beams every item is found"
    for leaf, score in expected.items():
        assert found[leaf] == pytest.approx(score, abs=1e-4)
    assert list(found) == sorted(found, key=lambda leaf: -found[leaf])
    assert (leaf_BK[0, len(expected) :] == -1).all()
    assert torch.isneginf(score_BK[0, len(expected) :]).all()


def test_padding_and_company_change_no_score() -> None:
    rng = np.random.default_rng(2)
    model, trie = llama(), ItemTrie.build(brute_force_paths(rng, 60, range(3, 14), 3, END))
    ids, mask = prompts(rng, 5)
    together = beam_search(model, ids, mask, trie, beams=8)
    for row in range(5):
        real = mask[row].bool()
        alone = beam_search(model, ids[row][real][None], mask[row][real][None], trie, beams=8)
        torch.testing.assert_close(alone[1][0], together[1][row], rtol=0, atol=1e-5)
        assert alone[0][0].tolist() == together[0][row].tolist()


def test_equal_scores_go_to_the_lower_leaf() -> None:
    model = llama()
    torch.nn.init.zeros_(model.lm_head.weight)  # every token is equally likely
    trie = ItemTrie.build([[a, b, END] for a in range(3, 9) for b in range(3, 9)])
    ids, mask = prompts(np.random.default_rng(0), 3)
    leaf_BK, _ = beam_search(model, ids, mask, trie, beams=7)
    lowest = sorted(trie.leaf_of(torch.arange(36)).tolist())[:7]
    assert leaf_BK.tolist() == [lowest] * 3


def test_length_penalty_divides_by_the_path_length() -> None:
    rng = np.random.default_rng(4)
    model, trie = llama(), ItemTrie.build(brute_force_paths(rng, 12, range(3, 9), 4, END))
    ids, mask = prompts(rng, 1)
    plain = dict(zip(*(part[0].tolist() for part in beam_search(model, ids, mask, trie, beams=30)), strict=True))
    depth = {trie.leaf_of(torch.tensor([item])).item(): 0 for item in range(12)}
    frontier, level = torch.tensor([0]), 0
    while len(frontier):
        depth |= {node: level for node in frontier.tolist() if node in depth}
        frontier, level = trie.children(frontier)[1].flatten(), level + 1
        frontier = frontier[frontier >= 0]
    leaf, score = beam_search(model, ids, mask, trie, beams=30, length_penalty=1.0)
    for node, value in zip(leaf[0].tolist(), score[0].tolist(), strict=True):
        if node >= 0:
            assert value == pytest.approx(plain[node] / depth[node], abs=1e-5)


def test_step_scores_see_every_candidate_and_change_the_result() -> None:
    rng = np.random.default_rng(5)
    model, trie = llama(), ItemTrie.build([[a, b, END] for a in range(3, 7) for b in range(3, 7)])
    ids, mask = prompts(rng, 2)
    favourite = trie.leaf_of(torch.tensor([9])).item()

    def only_item_9(node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
        wanted = {0: 5, trie.step(torch.tensor([0]), torch.tensor([5])).item(): 4}
        bonus = torch.zeros_like(log_prob_BKC)
        for row, place in np.ndindex(*node_BK.shape):
            bonus[row, place] = (token_BKC[row, place] == wanted.get(node_BK[row, place].item(), END)) * 50.0
        return log_prob_BKC + bonus

    leaf_BK, _ = beam_search(model, ids, mask, trie, beams=3, step_scores=only_item_9)
    assert leaf_BK[:, 0].tolist() == [favourite, favourite]


def test_expand_lists_popular_items_of_a_leaf_first() -> None:
    paths = [[5, END], [4, END], [5, END], [6, END], [5, END]]
    trie = ItemTrie.build(paths)
    leaf = trie.leaf_of(torch.arange(5))
    popularity = torch.tensor([3.0, 1.0, 9.0, 1.0, 3.0])
    leaf_BK = torch.stack([leaf[[3, 0, 1]], torch.tensor([leaf[1], -1, -1])])
    assert expand(leaf_BK, trie, popularity, 4).tolist() == [[3, 2, 0, 4], [1, -1, -1, -1]]
    assert expand(leaf_BK, trie, popularity, 7).tolist() == [[3, 2, 0, 4, 1, -1, -1], [1, -1, -1, -1, -1, -1, -1]]


def test_expand_takes_arrays_and_32_bit_leaves() -> None:
    trie = ItemTrie.build([[5, END], [4, END]])
    leaf = trie.leaf_of(torch.tensor([[1, 0]])).int()
    assert expand(leaf, trie, np.array([1.0, 2.0]), 2).tolist() == [[1, 0]]


def test_weights_that_are_no_numbers_are_not_ranked() -> None:
    model, trie = llama(), ItemTrie.build([[3, END], [4, END]])
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    ids, mask = prompts(np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="NaN"):
        beam_search(model, ids, mask, trie, beams=2)


def test_expand_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    paths = [[*row, END] for row in rng.integers(3, 6, size=(40, 2)).tolist()]
    trie = ItemTrie.build(paths)
    popularity = torch.from_numpy(rng.integers(0, 4, size=40)).double()
    leaves = [node for node in range(len(trie)) if trie.is_leaf(torch.tensor([node]))]
    leaf_BK = torch.tensor([rng.permutation(leaves)[:5].tolist() for _ in range(6)])
    found = expand(leaf_BK, trie, popularity, 12)
    for row, nodes in zip(found.tolist(), leaf_BK.tolist(), strict=True):
        expected: list[int] = []
        for node in nodes:
            members = [item for item in range(40) if trie.leaf_of(torch.tensor([item])).item() == node]
            expected += sorted(members, key=lambda item: (-popularity[item].item(), item))
        assert row == (expected + [-1] * 12)[:12]


def test_searches_that_make_no_sense_are_refused() -> None:
    trie = ItemTrie.build([[5, 7, 1], [6, 1]])
    ids = torch.tensor([[3, 4]])
    for wrong in ({"beams": 0}, {"beams": 2, "normalize": "all"}):
        with pytest.raises(ValueError, match="expected beams >= 1 and one of"):
            beam_search(llama(), ids, torch.ones_like(ids), trie, **wrong)


@pytest.mark.parametrize("name", ["Llama", "Gemma2"])
def test_half_precision(name: str) -> None:
    """In bf16 the scores are those of single precision, as far as three digits go."""
    rng = np.random.default_rng(0)
    trie = catalogue(rng, "codes", 40)
    ids, mask = prompts(rng, 4)
    model = family(name, initializer_range=0.1)
    exact = dict(enumerate(beam_search(model, ids, mask, trie, beams=40)[1]))
    leaf_BK, score_BK = beam_search(model.bfloat16(), ids, mask, trie, beams=40)
    assert score_BK.dtype == torch.float32
    assert (leaf_BK[:, :20] >= 0).all()
    for row, scores in exact.items():
        real = scores > -torch.inf
        torch.testing.assert_close(score_BK[row][real], scores[real], rtol=0, atol=0.15)


def test_prepared_by_accelerate_and_wrapped() -> None:
    from accelerate import Accelerator

    rng = np.random.default_rng(0)
    model, trie = llama(), catalogue(rng, "titles")
    ids, mask = prompts(rng, 4)
    expected = beam_search(model, ids, mask, trie, beams=5)
    accelerator = Accelerator(cpu=True)
    for wrapped in (accelerator.prepare(model), torch.nn.DataParallel(model)):
        found = beam_search(wrapped, ids, mask, trie, beams=5)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_an_adapter_on_the_head_is_heard() -> None:
    from peft import LoraConfig, get_peft_model

    rng = np.random.default_rng(0)
    trie = catalogue(rng, "titles", 40)
    ids, mask = prompts(rng, 3)
    model = get_peft_model(
        llama(), LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    ).eval()
    found = [beam_search(model, ids, mask, trie, beams=40, normalize=kind) for kind in ("vocab", "ids", "trie")]
    merged = model.merge_and_unload()
    for kind, (leaf_BK, score_BK) in zip(("vocab", "ids", "trie"), found, strict=True):
        expected = beam_search(merged, ids, mask, trie, beams=40, normalize=kind)
        assert torch.equal(leaf_BK, expected[0])
        torch.testing.assert_close(score_BK, expected[1], rtol=0, atol=1e-4)


def test_prompts_of_similar_length_are_searched_together_and_nothing_shows() -> None:
    rng = np.random.default_rng(6)
    model, trie = llama(), catalogue(rng, "titles")
    ids, mask = prompts(rng, 40, longest=30)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=5)

    def unchanged(node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
        assert len(node_BK) == 40, "row b is prompt b"
        return log_prob_BKC

    together = beam_search(model, ids, mask, trie, beams=5, step_scores=unchanged)
    assert torch.equal(leaf_BK, together[0])
    torch.testing.assert_close(score_BK, together[1], rtol=0, atol=1e-5)


def test_checkpoint_settings_play_no_part() -> None:
    rng = np.random.default_rng(0)
    model, trie = llama(), catalogue(rng, "codes")
    ids, mask = prompts(rng, 3)
    expected = beam_search(model, ids, mask, trie, beams=6)
    model.generation_config.update(top_k=2, temperature=0.1, do_sample=True, num_beams=3, length_penalty=3.0)
    found = beam_search(model, ids, mask, trie, beams=6)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_items_of_another_vocabulary_are_refused() -> None:
    ids = torch.tensor([[3, 4]])
    with pytest.raises(UserError, match="items use token 60, the model has 60"):
        beam_search(llama(), ids, torch.ones_like(ids), ItemTrie.build([[5, END], [60, END]]), beams=2)


def test_collaborative_evidence_is_mixed_into_every_step() -> None:
    """D3: a log p_LM + (1 - a) log p_CF, where p_CF is a child's share of its node's mass, floored."""
    rng = np.random.default_rng(7)
    model, share, floor = llama(), 0.3, 1e-20
    paths = brute_force_paths(rng, 25, range(3, 9), 3, END)
    trie = ItemTrie.build(paths)
    ids, mask = prompts(rng, 2)
    prob_BI = torch.from_numpy(rng.random((2, 25)) ** 4)
    prob_BI[0, :5] = 0.0

    def mixed(node_BK: Tensor, token_BKC: Tensor, log_prob_BKC: Tensor) -> Tensor:
        row_N = torch.arange(2).repeat_interleave(node_BK.shape[1])
        mass_NC = trie.child_mass(node_BK.flatten().clamp(min=0), row_N, prob_BI)[1]
        mass_BKC = mass_NC[:, : token_BKC.shape[2]].reshape(token_BKC.shape)
        return share * log_prob_BKC + (1 - share) * mass_BKC.clamp(min=floor).log().float()

    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=40, step_scores=mixed)
    for row in range(2):
        plain = exhaustive(model, ids[row : row + 1], mask[row : row + 1], trie, paths, "vocab")
        for leaf, score in zip(leaf_BK[row].tolist(), score_BK[row].tolist(), strict=True):
            if leaf < 0:
                continue
            path = next(path for item, path in enumerate(paths) if trie.leaf_of(torch.tensor([item])).item() == leaf)
            total = share * plain[leaf]
            for depth in range(len(path)):
                below = [sum(prob_BI[row, item].item() for item, other in enumerate(paths)
                             if other[:length] == path[:length]) for length in (depth, depth + 1)]  # fmt: skip
                if below[0] > 0:  # else shared by the number of items, which child_mass is tested for
                    total += (1 - share) * np.log(max(below[1] / below[0], floor))
            if all(prob_BI[row, item] > 0 for item, other in enumerate(paths) if other[0] == path[0]):
                assert score == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("normalize", ["vocab", "trie"])
def test_more_beams_than_leaves_change_nothing_and_cost_nothing(normalize: Any) -> None:
    """Whoever asks for every item of a small catalogue, and for many more, gets the same bits and the rest as padding."""
    rng = np.random.default_rng(8)
    model, trie = llama(), catalogue(rng, "titles", 30)
    ids, mask = prompts(rng, 3)
    leaf_BK, score_BK = beam_search(model, ids, mask, trie, beams=trie.leaves, normalize=normalize)
    assert (leaf_BK >= 0).all()
    more = beam_search(model, ids, mask, trie, beams=3_000_000, normalize=normalize)
    assert more[0].shape == more[1].shape == (3, 3_000_000)
    assert torch.equal(more[0][:, : trie.leaves], leaf_BK)
    assert torch.equal(more[1][:, : trie.leaves], score_BK)
    assert (more[0][:, trie.leaves :] == -1).all()
    assert torch.isneginf(more[1][:, trie.leaves :]).all()
