"""Sequences of items -> token ids -> batches. Item paths enter as ids, labels come from lengths.

Shapes: B rows, S tokens, N supervised positions, M targets, T history items, I items, D path tokens, F items of all
rows one after another, K tokens of all rows one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.histories import Sequences, Windows, gather_runs
from ilrec_cli.lm import prompts
from ilrec_cli.trie import ItemTrie


class Batch(NamedTuple):
    """What one forward pass sees."""

    input_BS: Tensor
    mask_BS: Tensor
    position_N: Tensor  # flat index (row * S + column) of the token *before* each supervised one
    target_N: Tensor
    node_N: Tensor  # trie node before each supervised token
    event_N: Tensor  # which of the M targets each supervised token belongs to
    history_MT: Tensor  # the items shown before each target, right-padded with -1
    task_N: Tensor | None = None  # number of the task of each supervised token, where there are several
    candidate_MC: Tensor | None = None  # the items to choose from for each target, where the prompt lists them

    def to(self, device: torch.device) -> Batch:
        """On the device; a GPU copies from pinned memory while the host goes on."""

        def moved(part: Any) -> Any:
            if part is None or device.type != "cuda":
                return part if part is None else part.to(device)
            return part.pin_memory().to(device, non_blocking=True)

        return Batch(*map(moved, self))

    def fed(self) -> tuple[int, int]:
        """(prompt tokens, response tokens) of the forward pass, without padding."""
        return int(self.mask_BS.sum()) - len(self.target_N), len(self.target_N)


@dataclass(frozen=True)
class Catalogue:
    """Every item's token path, the end token included, and the trie over them."""

    token_ID: np.ndarray
    length_I: np.ndarray
    node_ID: np.ndarray  # trie node before each token of the path
    trie: ItemTrie

    @property
    def end(self) -> int:
        """The end token."""
        return int(self.token_ID[0, self.length_I[0] - 1])

    @property
    def longest(self) -> int:
        """Tokens of the longest path that a model reads: all but the end token, which is only predicted."""
        return self.token_ID.shape[1] - 1

    @classmethod
    def build(cls, tokens: list[list[str]], tokenizer: Any) -> Catalogue:
        """From each item's identifier tokens, every one of which the tokenizer must know as a single token."""
        vocabulary = tokenizer.get_vocab()
        return cls.of_paths([[vocabulary[token] for token in row] for row in tokens], tokenizer.eos_token_id)

    @classmethod
    def of_paths(cls, paths: list[list[int]], end: int) -> Catalogue:
        """From each item's token ids, to which the end token is added: it tells a path from a longer one."""
        paths = [[*path, end] for path in paths]
        trie = ItemTrie.build(paths)
        length_I = np.array([len(path) for path in paths])
        token_ID = gather_runs(
            np.concatenate([np.array(path) for path in paths]), np.cumsum(length_I) - length_I, length_I
        )
        node_ID = np.zeros_like(token_ID)
        node_I = torch.zeros(len(paths), dtype=torch.long)
        for depth in range(1, token_ID.shape[1]):
            node_I = trie.step(node_I, torch.from_numpy(token_ID[:, depth - 1]))
            node_ID[:, depth] = node_I.numpy()
        return cls(token_ID, length_I, node_ID, trie)


@dataclass(frozen=True)
class Layout:
    """How a history becomes tokens: lead, items joined by the separator, tail. Decoding uses the layout trained.

    `closed`: items of the history carry their end token, as when every item of a sequence is supervised.
    """

    lead: np.ndarray
    separator: np.ndarray
    tail: np.ndarray
    closed: bool
    pad: int
    thought: int = 0  # tokens that are written freely before an answer, at most (lm/thoughts.py)

    @classmethod
    def prompt(cls, tokenizer: Any, template: prompts.Template, between: str = prompts.SEPARATOR) -> Layout:
        """`--targets last`: a text prompt, one target after it."""
        start = start_tokens(tokenizer) if template.start else []
        lead = [*start, *tokenizer.encode(template.before, add_special_tokens=False)]
        tail = tokenizer.encode(template.after, add_special_tokens=False)
        separator = tokenizer.encode(between, add_special_tokens=False)
        return cls(np.array(lead), np.array(separator), np.array(tail), False, pad_token(tokenizer))

    @classmethod
    def stream(cls, tokenizer: Any) -> Layout:
        """`--targets all`: a start token, then every item with its end token, one sequence per user."""
        lead = start_tokens(tokenizer) or [tokenizer.eos_token_id]
        empty = np.zeros(0, dtype=np.int64)
        return cls(np.array(lead), empty, empty, True, pad_token(tokenizer))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: decoding uses the very ids that were trained, whatever a tokenizer says later."""
        arrays = {name: getattr(self, name).tolist() for name in ("lead", "separator", "tail")}
        return {**arrays, "closed": self.closed, "pad": self.pad} | ({"thought": self.thought} if self.thought else {})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Layout:
        """What `as_dict` gave."""
        arrays = {name: np.array(data[name], dtype=np.int64) for name in ("lead", "separator", "tail")}
        return cls(**arrays, closed=data["closed"], pad=data["pad"], thought=data.get("thought", 0))

    def prompts(self, catalogue: Catalogue, history_BT: np.ndarray) -> tuple[Tensor, Tensor]:
        """(input_BS, mask_BS) of histories (right-padded with -1), padded on the left for decoding."""
        count_B = (history_BT >= 0).sum(1)
        token_K, row_K = self._history_tokens(catalogue, history_BT[history_BT >= 0], count_B)
        length_B = np.bincount(row_K, minlength=len(count_B)) + len(self.lead) + len(self.tail)
        width = int(length_B.max())
        input_BS = np.full((len(count_B), width), self.pad)
        left_B = width - length_B
        mask_BS = np.arange(width) >= left_B[:, None]
        _put(input_BS, left_B, self.lead)
        input_BS[row_K, left_B[row_K] + len(self.lead) + _place_in_row(row_K)] = token_K
        _put(input_BS, width - len(self.tail) - np.zeros_like(left_B), self.tail)
        return torch.from_numpy(input_BS), torch.from_numpy(mask_BS.astype(np.int64))

    def _history_tokens(
        self, catalogue: Catalogue, item_F: np.ndarray, count_B: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(token_K, row_K): tokens of the history items of each row, separators between them."""
        length_F = catalogue.length_I[item_F] - (0 if self.closed else 1)
        token_FD, join = catalogue.token_ID[item_F], len(self.separator)
        if join:
            token_FD = np.concatenate([token_FD, np.zeros((len(item_F), join), dtype=token_FD.dtype)], 1)
            token_FD[np.arange(len(item_F))[:, None], length_F[:, None] + np.arange(join)] = self.separator
            is_last_F = np.zeros(len(item_F), dtype=bool)
            is_last_F[np.cumsum(count_B)[count_B > 0] - 1] = True
            length_F = length_F + np.where(is_last_F, 0, join)
        row_F = np.repeat(np.arange(len(count_B)), count_B)
        inside = np.arange(token_FD.shape[1]) < length_F[:, None]
        return token_FD[inside], np.repeat(row_F, length_F)


@dataclass(frozen=True)
class Examples:
    """Training examples of the next-item task: windows of users' sequences in a layout.

    In a stream every window is one example, supervised at its targets; in prompts every target is an example of its
    own (a window whose only target is its last item).
    """

    sequences: Sequences
    windows: Windows
    catalogue: Catalogue
    layout: Layout

    @classmethod
    def per_target(
        cls,
        sequences: Sequences,
        user_E: np.ndarray,
        end_E: np.ndarray,
        max_history: int,
        catalogue: Catalogue,
        layout: Layout,
    ) -> Examples:
        """One example per training target, with up to `max_history` items before it."""
        place = sequences.offsets[user_E] + end_E
        windows = Windows(place - np.minimum(end_E, max_history), place, place + 1)
        return cls(sequences, windows, catalogue, layout)

    def __len__(self) -> int:
        return len(self.windows)

    def at(self, epoch: int) -> Examples:
        """The same in every epoch."""
        return self

    def lengths(self) -> np.ndarray:
        """About how many tokens each example has: for batches of like length."""
        return self.windows.lengths

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, supervised tokens) of every example, without building it."""
        windows, layout = self.windows, self.layout
        before_F = np.concatenate([[0], self.catalogue.length_I[self.sequences.items].cumsum()])
        context_E = windows.first - windows.start
        shown_E = before_F[windows.first] - before_F[windows.start]
        if not layout.closed:  # the end token of an item gives way to the separator, of which the last has none
            shown_E = shown_E - context_E
        shown_E = shown_E + len(layout.separator) * np.maximum(context_E - 1, 0)
        supervised_E = before_F[windows.stop] - before_F[windows.first]
        return len(layout.lead) + shown_E + len(layout.tail) + supervised_E, supervised_E

    def targets(self, rows: np.ndarray) -> int:
        """Number of targets of some examples."""
        windows = self.windows.take(rows)
        return int((windows.stop - windows.first).sum())

    def supervised(self, rows: np.ndarray) -> int:
        """Number of supervised tokens of some examples, without building them."""
        windows = self.windows.take(rows)
        item = gather_runs(self.sequences.items, windows.first, windows.stop - windows.first)
        return int(self.catalogue.length_I[item[item >= 0]].sum())

    def rewarded(self, rows: np.ndarray) -> int:
        """How many of them have collaborative rewards: all, since every target is an item after a history."""
        return self.supervised(rows)

    def batch(self, rows: np.ndarray) -> Batch:
        """Tokens, supervised positions and histories of some examples, padded on the right."""
        windows, layout, catalogue = self.windows.take(rows), self.layout, self.catalogue
        context = windows.first - windows.start
        shown = gather_runs(self.sequences.items, windows.start, context)
        answer = gather_runs(self.sequences.items, windows.first, windows.stop - windows.first)
        answers_B = windows.stop - windows.first
        item_F, row_F = answer[answer >= 0], np.repeat(np.arange(len(rows)), answers_B)
        before_K, before_row_K = layout._history_tokens(catalogue, shown[shown >= 0], context)
        inside = np.arange(catalogue.token_ID.shape[1]) < catalogue.length_I[item_F][:, None]
        token_N, node_N = catalogue.token_ID[item_F][inside], catalogue.node_ID[item_F][inside]
        event_N, row_N = np.nonzero(inside)[0], np.repeat(row_F, catalogue.length_I[item_F])

        prompt_B = np.bincount(before_row_K, minlength=len(rows)) + len(layout.lead) + len(layout.tail)
        length_B = prompt_B + np.bincount(row_N, minlength=len(rows))
        width = int(length_B.max())
        input_BS = np.full((len(rows), width), layout.pad)
        _put(input_BS, np.zeros_like(prompt_B), layout.lead)
        input_BS[before_row_K, len(layout.lead) + _place_in_row(before_row_K)] = before_K
        _put(input_BS, prompt_B - len(layout.tail), layout.tail)
        column_N = prompt_B[row_N] + _place_in_row(row_N)
        input_BS[row_N, column_N] = token_N
        mask_BS = np.arange(width) < length_B[:, None]

        place_M = np.repeat(windows.first, answers_B) + _place_in_row(row_F)
        start_M = np.repeat(windows.start, answers_B)
        history_MT = gather_runs(self.sequences.items, start_M, place_M - start_M)
        parts = (input_BS, mask_BS.astype(np.int64), row_N * width + column_N - 1, token_N, node_N, event_N, history_MT)
        return Batch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def start_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text: its start token, or nothing (as Qwen's)."""
    marked = tokenizer("a", add_special_tokens=True).input_ids
    plain = tokenizer("a", add_special_tokens=False).input_ids
    return list(marked[: marked.index(plain[0])]) if plain else []


def pad_token(tokenizer: Any) -> int:
    """Any id will do: padding stands behind all that is supervised (before prompts it is masked); labels come from lengths."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _place_in_row(row_K: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within every run of equal rows."""
    place = np.arange(len(row_K))
    starts = np.flatnonzero(np.diff(row_K, prepend=-1))
    return place - np.repeat(starts, np.diff(np.append(starts, len(row_K))))


def _put(matrix_BS: np.ndarray, column_B: np.ndarray, tokens: np.ndarray) -> None:
    """The same tokens into every row, from a column of its own on."""
    if len(tokens):
        matrix_BS[np.arange(len(matrix_BS))[:, None], column_B[:, None] + np.arange(len(tokens))] = tokens
