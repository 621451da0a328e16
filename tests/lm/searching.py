"""Prompts and catalogues to search, and two other ways to the same result: transformers' generate, and scoring every item."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from conftest import brute_force_paths
from torch import Tensor

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
