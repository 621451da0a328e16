"""What answers are worth, and how much more than their group. Shapes: B prompts, R answers of each, T tokens, I items, L leaves."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.lm.examples import Catalogue
from ilrec_cli.trie import ItemTrie


def exact(leaf_BR: np.ndarray, target_B: np.ndarray) -> np.ndarray:
    """1 where the answer has the target's identifier, else 0; `target_B` are leaves."""
    return (leaf_BR == target_B[:, None]).astype(np.float64)


def rank(right_BR: np.ndarray) -> np.ndarray:
    """-(1 / log2(i + 2)) / sum_j 1 / log2(j + 2) for a wrong answer at place i, 0 for the right one.

    0 for a whole group without a right one. Source: MiniOneRec, rl.py.
    """
    discount_R = 1 / np.log2(np.arange(right_BR.shape[1]) + 2)
    return np.where((right_BR > 0) | ~right_BR.any(1, keepdims=True), 0.0, -discount_R / discount_R.sum())


def prefix(catalogue: Catalogue, item_BR: np.ndarray, target_B: np.ndarray) -> np.ndarray:
    """How many tokens agree from the beginning, over the longer of both identifiers, end tokens aside."""
    length_BR, length_B1 = catalogue.length_I[item_BR] - 1, catalogue.length_I[target_B][:, None] - 1
    place_T = np.arange(catalogue.token_ID.shape[1])
    inside_BRT = place_T < np.minimum(length_BR, length_B1)[:, :, None]
    same_BRT = (catalogue.token_ID[item_BR] == catalogue.token_ID[target_B][:, None]) & inside_BRT
    agree_BR: np.ndarray = same_BRT.cumprod(2).sum(2) / np.maximum(length_BR, length_B1)
    return agree_BR


def collaborative(trie: ItemTrie, score_BI: Tensor, leaf_BR: np.ndarray) -> np.ndarray:
    """The score of each answer; of items that share an identifier the highest."""
    leaf_I = trie.leaf_of(torch.arange(trie.items)).to(score_BI.device)
    found_BL = score_BI.new_full((len(score_BI), len(trie)), -torch.inf)
    found_BL.scatter_reduce_(1, leaf_I.expand_as(score_BI), score_BI, "amax")
    index_BR = torch.from_numpy(leaf_BR).to(score_BI.device)
    return found_BL.gather(1, index_BR).double().cpu().numpy()


def advantages(reward_BR: np.ndarray, present_BR: np.ndarray) -> np.ndarray:
    """(reward - mean) / (std + 1e-4) within each group, std with one degree of freedom less; 0 for absent answers."""
    count_B1 = present_BR.sum(1, keepdims=True)
    mean_B1 = np.where(present_BR, reward_BR, 0).sum(1, keepdims=True) / np.maximum(count_B1, 1)
    apart_BR = np.where(present_BR, reward_BR - mean_B1, 0)
    std_B1 = np.sqrt((apart_BR**2).sum(1, keepdims=True) / np.maximum(count_B1 - 1, 1))
    found_BR: np.ndarray = apart_BR / (std_B1 + 1e-4)
    return found_BR
