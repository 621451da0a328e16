"""Training examples of any task as runs of token ids: a prompt, then a response that is supervised to its end token.

Shapes: E examples, B rows of a batch, S tokens, N supervised positions, M histories, T history items, K tokens of some
runs one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.histories import gather_runs
from ilrec_cli.lm.examples import Batch


class Runs(NamedTuple):
    """Stretches of a flat array, one an example: flat[start:start + length]. They may overlap, and be empty."""

    flat: np.ndarray
    start: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, flat: np.ndarray, offsets: np.ndarray) -> Runs:
        """Run e is flat[offsets[e]:offsets[e + 1]]."""
        return cls(flat, offsets[:-1], np.diff(offsets))

    @classmethod
    def of_lists(cls, lists: Sequence[Sequence[int]]) -> Runs:
        """From a list for each example."""
        flat = np.array([value for each in lists for value in each], dtype=np.int64)
        return cls.of(flat, np.cumsum([0, *map(len, lists)]))

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: np.ndarray) -> Runs:
        return Runs(self.flat, self.start[rows], self.length[rows])

    def places(self) -> np.ndarray:
        """Where in `flat` the values of all runs stand, one run after another."""
        before = np.cumsum(self.length) - self.length
        return np.arange(int(self.length.sum())) + np.repeat(self.start - before, self.length)


@dataclass(frozen=True)
class Rows:
    """Examples as a `lm.steps.Source`. A response includes its end token, and a prompt has at least one token.

    `node` runs beside `response.flat`: the trie node before each token, -1 where no collaborative term applies.
    `history` is what the prompt shows, the oldest item first: what collaborative scores are taken for.
    """

    prompt: Runs
    response: Runs
    node: np.ndarray
    history: Runs
    task_E: np.ndarray  # number of each example's task
    pad: int

    def __post_init__(self) -> None:
        sizes = {len(part) for part in (self.prompt, self.response, self.history, self.task_E)}
        if len(sizes) > 1 or len(self.node) != len(self.response.flat):
            raise ValueError(f"rows: parts of {sorted(sizes)} examples, {len(self.node)} nodes for {len(self.response.flat)} tokens")  # fmt: skip
        if len(self) and (self.prompt.length.min() < 1 or self.response.length.min() < 1):
            raise ValueError("rows: a prompt or a response is empty")

    def __len__(self) -> int:
        return len(self.task_E)

    def at(self, epoch: int) -> Rows:
        """The same in every epoch."""
        return self

    def lengths(self) -> np.ndarray:
        """How many tokens each example has."""
        return self.prompt.length + self.response.length

    def supervised(self, rows: np.ndarray) -> int:
        """Number of response tokens of some examples."""
        return int(self.response.length[rows].sum())

    def rewarded(self, rows: np.ndarray) -> int:
        """How many of them have collaborative rewards."""
        return int((self.node[self.response.take(rows).places()] >= 0).sum())

    def batch(self, rows: np.ndarray) -> Batch:
        """Tokens, supervised positions and histories of some examples, padded on the right."""
        prompt, response = self.prompt.take(rows), self.response.take(rows)
        length_B = prompt.length + response.length
        column = np.arange(int(length_B.max()))
        mask_BS = column < length_B[:, None]
        asked_BS = column < prompt.length[:, None]
        answered_BS = mask_BS & ~asked_BS
        place_N = response.places()
        target_N, node_N = response.flat[place_N].astype(np.int64), self.node[place_N].astype(np.int64)
        input_BS = np.full(mask_BS.shape, self.pad)
        input_BS[asked_BS] = prompt.flat[prompt.places()]
        input_BS[answered_BS] = target_N
        row_N = np.repeat(np.arange(len(rows)), response.length)
        event_N, history_MT = self._histories(rows, row_N, node_N)
        parts = (input_BS, mask_BS.astype(np.int64), np.flatnonzero(answered_BS) - 1, target_N, node_N, event_N,
                 history_MT, self.task_E[rows][row_N])  # fmt: skip
        return Batch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))

    def _histories(self, rows: np.ndarray, row_N: np.ndarray, node_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(event_N, history_MT): histories of the rows with rewards alone, at least one, since scores cost time.

        A position without rewards names the history before it: events stay in ascending order.
        """
        has_B = np.bincount(row_N, weights=node_N >= 0, minlength=len(rows)) > 0
        event_B = np.maximum(np.cumsum(has_B) - 1, 0)
        has_B[0] |= not has_B.any()
        history = self.history.take(rows[has_B])
        return event_B[row_N], gather_runs(history.flat, history.start, history.length).astype(np.int64)

    def prompts(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(input_BS, mask_BS) of the prompts alone, padded on the left for decoding."""
        return left_padded(self.prompt.take(rows), self.pad)


def left_padded(prompt: Runs, pad: int) -> tuple[Tensor, Tensor]:
    """(input_BS, mask_BS) of prompts, padded on the left for decoding."""
    width = int(prompt.length.max())
    mask_BS = np.arange(width) >= width - prompt.length[:, None]
    input_BS = np.full(mask_BS.shape, pad)
    input_BS[mask_BS] = prompt.flat[prompt.places()]
    return torch.from_numpy(input_BS), torch.from_numpy(mask_BS.astype(np.int64))
