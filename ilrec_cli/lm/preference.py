"""Pairs for preference tuning: the next item of a history is preferred to others. Data, and the reference's scores.

Shapes: E training targets, B rows of a batch, R responses (the chosen item first), T tokens of the longest, I items,
K prompt tokens of all rows one after another, F places in the flat array of all sequences, M items of all windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from ilrec_cli.histories import Windows, gather_runs
from ilrec_cli.lm.candidates import CandidateExamples
from ilrec_cli.lm.examples import Catalogue, Examples
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.responses import Responses, pack, takes_branches
from ilrec_cli.lm.steps import Source


class Prompts(Protocol):
    """What responses follow, one for every training target. Responses are items."""

    @property
    def catalogue(self) -> Catalogue: ...
    @property
    def pad(self) -> int: ...
    @property
    def allowed(self) -> np.ndarray | None:
        """allowed_EM: the only items that may be negatives of each target, padded with -1; None: all of them."""

    def __len__(self) -> int: ...

    def targets(self) -> np.ndarray:
        """target_E: the item chosen."""

    def users(self) -> np.ndarray:
        """user_E of each target."""

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """(user, item) of all that training knows of the users."""

    def items(self, rows: np.ndarray) -> np.ndarray:
        """history_BT that the prompts show, padded with -1."""

    def lengths(self) -> np.ndarray:
        """About how many tokens each prompt has."""

    def tokens(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(prompt_K, length_B) of some of them."""


@dataclass(frozen=True)
class Histories:
    """The items before each training target, most recent last, in the layout that was trained."""

    examples: Examples  # one target each
    allowed: np.ndarray | None = None  # allowed_EM

    @classmethod
    def of(cls, examples: Examples, max_history: int) -> Histories:
        """Every target of the examples, whether they are prompts or streams, with up to `max_history` items before it."""
        windows, sequences = examples.windows, examples.sequences
        count = windows.stop - windows.first
        place_E = np.repeat(windows.first, count) + np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
        begin_E = sequences.offsets[_user(examples, place_E)]
        each = Windows(np.maximum(begin_E, place_E - max_history), place_E, place_E + 1)
        return cls(Examples(sequences, each, examples.catalogue, examples.layout))

    @property
    def catalogue(self) -> Catalogue:
        return self.examples.catalogue

    @property
    def pad(self) -> int:
        return self.examples.layout.pad

    def __len__(self) -> int:
        return len(self.examples)

    def lengths(self) -> np.ndarray:
        return self.examples.lengths()

    def items(self, rows: np.ndarray) -> np.ndarray:
        windows = self.examples.windows.take(rows)
        return gather_runs(self.examples.sequences.items, windows.start, windows.first - windows.start)

    def tokens(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        input_BS, mask_BS = self.examples.layout.prompts(self.examples.catalogue, self.items(rows))
        return input_BS[mask_BS > 0].numpy(), mask_BS.sum(1).numpy()

    def targets(self) -> np.ndarray:
        return np.asarray(self.examples.sequences.items[self.examples.windows.first])

    def users(self) -> np.ndarray:
        return _user(self.examples, self.examples.windows.first)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        windows = self.examples.windows
        count = windows.stop - windows.start
        place_M = np.repeat(windows.start, count) + np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
        place_F = np.unique(place_M)
        return _user(self.examples, place_F), self.examples.sequences.items[place_F]


@dataclass(frozen=True)
class Choices:
    """Prompts of candidate ranking, as the first epoch draws them: negatives are a row's other candidates."""

    examples: CandidateExamples

    @property
    def catalogue(self) -> Catalogue:
        return self.examples.prompts.catalogue

    @property
    def pad(self) -> int:
        return self.examples.layout.pad

    @property
    def allowed(self) -> np.ndarray | None:
        return self.examples.candidates

    def __len__(self) -> int:
        return len(self.examples)

    def lengths(self) -> np.ndarray:
        return self.examples.lengths()

    def items(self, rows: np.ndarray) -> np.ndarray:
        return self.examples.history_ET[rows]

    def tokens(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made = self.examples
        runs = made.prompts.runs(made.history_ET[rows], made.candidates[rows], made.templates[rows])
        return runs.flat[runs.places()], runs.length

    def targets(self) -> np.ndarray:
        return self.examples.target_E

    def users(self) -> np.ndarray:
        """Every row for itself: what it shows is all that is known."""
        return np.arange(len(self))

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        row, column = np.nonzero(self.examples.history_ET >= 0)
        shown = self.examples.history_ET[row, column]
        return np.concatenate([row, self.users()]), np.concatenate([shown, self.examples.target_E])


@dataclass(frozen=True)
class Pairs:
    """A source of prompts with items as responses: the chosen one, then those it is preferred to. Counts rows."""

    prompts: Prompts
    item_ER: np.ndarray
    branched: bool = True
    extra: dict[str, np.ndarray] = field(default_factory=dict)  # what the loss needs of each row

    def __len__(self) -> int:
        return len(self.item_ER)

    def at(self, epoch: int) -> Pairs:
        """The same in every epoch."""
        return self

    def lengths(self) -> np.ndarray:
        return self.prompts.lengths()

    def supervised(self, rows: np.ndarray) -> int:
        return len(rows)

    def rewarded(self, rows: np.ndarray) -> int:
        """No term of pairs is counted apart."""
        return 0

    def batch(self, rows: np.ndarray) -> Responses:
        catalogue, item_BR = self.prompts.catalogue, self.item_ER[rows]
        token_BRT = catalogue.token_ID[item_BR][:, :, : int(catalogue.length_I[item_BR].max())]
        extra = {name: torch.from_numpy(values[rows]) for name, values in self.extra.items()}
        return pack(*self.prompts.tokens(rows), token_BRT, branched=self.branched, pad=self.prompts.pad, extra=extra)


def prompts_of(material: Material) -> Prompts:
    """Those of the phase's task."""
    return prompts_for(material.examples, material.max_history, material.choices)


def prompts_for(examples: Examples, max_history: int, choices: CandidateExamples | None) -> Prompts:
    """Rows of candidate ranking where that is the task, else histories."""
    return Histories.of(examples, max_history) if choices is None else Choices(choices)


def next_item(material: Material) -> Source:
    """The examples of the phase's task, to be fine-tuned on."""
    return material.examples if material.choices is None else material.choices


def share_prompt(material: Material) -> bool:
    """Whether a prompt's responses can share it."""
    return material.parallel.together(lambda: takes_branches(material.parallel.model))


def branches(material: Material) -> bool:
    """Whether a prompt's responses can share it; says so where they cannot."""
    taken = share_prompt(material)
    if not taken:
        material.console.warn(
            f"{material.settings.backbone}: its attention takes no mask of branches, so every response is a sequence of its "
            "own, which is slower"
        )
    return taken


def scored(material: Material, source: Pairs) -> np.ndarray:
    """log_prob_ER of every response under the model as it is: the reference's, when a phase begins.

    The reference is where the phase starts, for adapters too: they may be trained already, so "adapters off" is not it.
    """
    parallel = material.parallel
    order = np.argsort(-source.lengths(), kind="stable")[parallel.rank :: parallel.world]
    size = material.settings.micro_batch or -(-material.settings.batch_size // parallel.world)
    chunks = [order[start : start + size] for start in range(0, len(order), size)]

    @torch.no_grad()
    def scores() -> Iterator[np.ndarray]:
        for rows in material.console.progress(chunks, "reference"):
            batch = source.batch(rows)
            material.cost.add(making_tokens=sum(batch.fed()))
            with parallel.autocast():
                log_prob_BRT = batch.to(parallel.device).log_probs(parallel.model, material.settings.loss_chunk)
            yield log_prob_BRT.sum(2).float().cpu().numpy()

    mine = parallel.together(lambda: list(scores()))
    log_prob_ER = np.zeros(source.item_ER.shape, dtype=np.float32)
    for rows, values in parallel.gather((order, np.concatenate(mine) if mine else log_prob_ER[:0])):
        log_prob_ER[rows] = values
    return log_prob_ER


def _user(examples: Examples, place: np.ndarray) -> np.ndarray:
    return np.searchsorted(examples.sequences.offsets, place, side="right") - 1
