"""Items that a target is preferred to. None is the target, or shares its identifier: pairs of equal text say nothing.

All that a user has in the training part is left out too, where anything else remains.

Shapes: E targets, J negatives of each, M candidates in order, I items, B rows at a time, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ilrec_cli.errors import UserError
from ilrec_cli.lm.decode import beam_search
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.preference import Pairs, Prompts, scored, share_prompt
from ilrec_cli.ranking import top_k
from ilrec_cli.trie import ItemTrie

ROWS = 4096  # at a time, where a matrix of rows by candidates is made


class Known:
    """What may not be a negative of a row, by identifier."""

    def __init__(self, prompts: Prompts):
        trie = prompts.catalogue.trie
        self.leaf_I = trie.leaf_of(torch.arange(trie.items)).numpy()
        self.target_E, self.user_E, self.nodes = self.leaf_I[prompts.targets()], prompts.users(), len(trie)
        user, item = prompts.seen()
        self.seen = np.unique(user * self.nodes + self.leaf_I[item])

    def bad(self, rows: np.ndarray, item_BM: np.ndarray) -> np.ndarray:
        """Whether items are padding (-1) or in the training part of the row's user, targets included."""
        key_BM = self.user_E[rows][:, None] * self.nodes + self.leaf_I[item_BM]
        place = np.minimum(np.searchsorted(self.seen, key_BM), len(self.seen) - 1)
        return (item_BM < 0) | (self.seen[place] == key_BM)

    def repeated(self, item_BM: np.ndarray) -> np.ndarray:
        """Whether an earlier column of the row has the same identifier."""
        leaf_BM = np.where(item_BM < 0, -1, self.leaf_I[item_BM])
        order = np.argsort(leaf_BM, axis=1, kind="stable")
        ordered = np.take_along_axis(leaf_BM, order, axis=1)
        again = np.zeros(leaf_BM.shape, dtype=bool)
        np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
        return again

    def longest(self) -> int:
        """The most identifiers that a user has."""
        return int(np.bincount(self.seen // self.nodes).max(initial=0))

    def refuse(self, count: int) -> None:
        """`UserError` where a user leaves fewer identifiers than so many negatives need."""
        leaves = len(np.unique(self.leaf_I))
        if leaves - self.longest() < count:
            raise UserError(
                f"{count} negatives asked for, but a user leaves only {leaves - self.longest()} of {leaves:,} identifiers"
            )


def check_random(options: Any, prompts: Prompts) -> None:
    """`UserError` where `options.negatives` cannot be drawn for every row: before the fine-tuning that comes first."""
    known, allowed_EM = Known(prompts), prompts.allowed
    if allowed_EM is None:
        known.refuse(options.negatives)
    else:
        valid_EM = ~known.bad(np.arange(len(prompts)), allowed_EM) & ~known.repeated(allowed_EM)
        _refuse_rows(valid_EM, options.negatives)


def drawn(
    prompts: Prompts, count: int, rng: np.random.Generator, *, weight_I: np.ndarray | None = None
) -> np.ndarray:  # fmt: skip
    """item_EJ: distinct ones, uniform or by weight; from a row's allowed items alone where those are given."""
    known, rows, allowed_EM = Known(prompts), np.arange(len(prompts)), prompts.allowed
    if allowed_EM is not None:
        # The largest of log w + Gumbel noise are a draw by weight, without repeats.
        noise_EM = rng.gumbel(size=allowed_EM.shape) + (0 if weight_I is None else np.log(weight_I[allowed_EM]))
        item_EM = np.take_along_axis(allowed_EM, np.argsort(-noise_EM, axis=1, kind="stable"), axis=1)
        return _picked(item_EM, ~known.bad(rows, item_EM) & ~known.repeated(item_EM), count, count, rng)
    known.refuse(count)
    items = len(known.leaf_I)
    total_I = None if weight_I is None else np.cumsum(weight_I / weight_I.sum())
    item_EJ = np.full((len(rows), count), -1)
    open_E, open_J = np.nonzero(item_EJ < 0)
    while len(open_E):
        size = len(open_E)
        some = rng.integers(items, size=size) if total_I is None else np.searchsorted(total_I, rng.random(size))
        item_EJ[open_E, open_J] = np.minimum(some, items - 1)
        open_E, open_J = np.nonzero(known.bad(rows, item_EJ) | known.repeated(item_EJ))
    return item_EJ


def similar(
    prompts: Prompts, vector_ID: np.ndarray, near: int, count: int, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """item_EJ among the `near` items whose vectors have the largest cosine with the target's."""
    known = Known(prompts)
    unit_ID = vector_ID / np.maximum(np.linalg.norm(vector_ID, axis=1, keepdims=True), 1e-12)
    target_E, allowed_EM, parts = prompts.targets(), prompts.allowed, []
    if allowed_EM is None:
        # A user's own items may all be closer, each with namesakes.
        near_IM = _nearest(unit_ID, (near + known.longest()) * int(np.bincount(known.leaf_I).max()))
    for start in range(0, len(prompts), ROWS):
        rows = np.arange(start, min(start + ROWS, len(prompts)))
        if allowed_EM is None:
            item_BM = near_IM[target_E[rows]]
        else:
            cosine_BM = np.einsum("bd,bmd->bm", unit_ID[target_E[rows]], unit_ID[allowed_EM[rows]])
            item_BM = np.take_along_axis(allowed_EM[rows], np.argsort(-cosine_BM, axis=1, kind="stable"), axis=1)
        parts.append(_picked(item_BM, ~known.bad(rows, item_BM) & ~known.repeated(item_BM), near, count, rng))
    return np.concatenate(parts)


def _nearest(unit_ID: np.ndarray, width: int) -> np.ndarray:
    """near_IM of every item, itself among them."""
    every = torch.from_numpy(np.ascontiguousarray(unit_ID))
    return torch.cat([top_k(part @ every.T, width) for part in torch.split(every, 1024)]).numpy()


def own_mistakes(
    material: Material, prompts: Prompts, beams: int, near: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """item_EJ among the model's `near` best answers that are wrong, by its own beams or by its scores of a row's items."""
    known, rows = Known(prompts), np.arange(len(prompts))
    allowed_EM = prompts.allowed
    if allowed_EM is None:
        item_EM = answers(material, prompts, beams)
    else:
        score_EM = scored(material, Pairs(prompts, np.maximum(allowed_EM, 0), share_prompt(material)))
        order = np.argsort(np.where(allowed_EM < 0, np.inf, -score_EM), axis=1, kind="stable")
        item_EM = np.take_along_axis(allowed_EM, order, axis=1)
    wrong_EM = (item_EM >= 0) & (known.leaf_I[item_EM] != known.target_E[:, None]) & ~known.repeated(item_EM)
    fresh_EM = wrong_EM & ~known.bad(rows, item_EM)
    enough = fresh_EM.sum(1, keepdims=True) >= count
    return _picked(item_EM, np.where(enough, fresh_EM, wrong_EM), near, count, rng)


def answers(material: Material, prompts: Prompts, beams: int) -> np.ndarray:
    """item_EK: what the model as it is recommends, best first, one item of each identifier; padded with -1."""
    parallel, catalogue = material.parallel, prompts.catalogue
    trie, size = catalogue.trie.to(parallel.device), material.settings.micro_batch or 64
    order = np.argsort(-prompts.lengths(), kind="stable")[parallel.rank :: parallel.world]
    chunks = [order[start : start + size] for start in range(0, len(order), size)]

    def leaves() -> Iterator[np.ndarray]:
        for rows in material.console.progress(chunks, "generate"):
            prompt_K, length_B = prompts.tokens(rows)
            input_BS, mask_BS = left_padded(prompt_K, length_B)
            with parallel.autocast():
                leaf_BK, _ = beam_search(
                    parallel.model.backbone, input_BS.to(parallel.device), mask_BS.to(parallel.device), trie, beams=beams,
                    normalize=material.settings.vocab_scope,
                )  # fmt: skip
            material.cost.add(
                making_tokens=len(prompt_K) + len(rows) * beams * (trie.max_depth - 1), generated=len(rows) * beams
            )
            yield leaf_BK.cpu().numpy()

    mine = parallel.together(lambda: list(leaves()))
    leaf_EK = np.full((len(prompts), beams), -1)
    for rows, values in parallel.gather((order, np.concatenate(mine) if mine else leaf_EK[:0])):
        leaf_EK[rows] = values
    return items_of(catalogue.trie, leaf_EK)


def items_of(trie: ItemTrie, leaf_EK: np.ndarray) -> np.ndarray:
    """item_EK: the first item of each leaf; -1 stays."""
    leaf, item = np.unique(trie.leaf_of(torch.arange(trie.items)).cpu().numpy(), return_index=True)
    return np.where(leaf_EK < 0, -1, item[np.minimum(np.searchsorted(leaf, leaf_EK), len(leaf) - 1)])


def _picked(
    item_EM: np.ndarray, valid_EM: np.ndarray, near: int, count: int, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    """item_EJ: of the first `near` valid columns of each row as many as asked for, in random order."""
    valid_EM = valid_EM & (valid_EM.cumsum(1) <= near)
    _refuse_rows(valid_EM, count)
    key_EM = np.where(valid_EM, rng.random(valid_EM.shape), 2.0)
    return np.take_along_axis(item_EM, np.argsort(key_EM, axis=1, kind="stable")[:, :count], axis=1)


def _refuse_rows(valid_EM: np.ndarray, count: int) -> None:
    least = int(valid_EM.sum(1).min(initial=count))
    if least < count:
        raise UserError(f"{count} negatives asked for, but a row has only {least} to choose from; ask for fewer")


def left_padded(prompt_K: np.ndarray, length_B: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_BS, mask_BS) of prompts that lie one after another, for decoding."""
    mask_BS = np.arange(length_B.max()) >= (length_B.max() - length_B)[:, None]
    input_BS = np.zeros(mask_BS.shape, dtype=np.int64)
    input_BS[mask_BS] = prompt_K
    return torch.from_numpy(input_BS), torch.from_numpy(mask_BS.astype(np.int64))
