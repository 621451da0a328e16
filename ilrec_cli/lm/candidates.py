"""Candidate ranking as prompts: a history, the row's candidates, the name of one of them as the answer.

Names enter as the token ids of the catalogue's paths, in histories, among candidates and as answers alike; nothing is
cut and nothing re-tokenised. Prompts are put together batch by batch: every epoch draws templates (and, where none are
published, candidates) of its own.

Shapes: E examples, B rows, T history items, C candidates, I items, P templates, G runs of a row one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ilrec_cli.config import fingerprint
from ilrec_cli.histories import Sequences, histories, targets
from ilrec_cli.lm.candidate_prompts import NEWLINE, TEMPLATES
from ilrec_cli.lm.examples import Batch, Catalogue, pad_token, start_tokens
from ilrec_cli.lm.prompts import PLAIN, Format
from ilrec_cli.lm.rows import Rows, Runs, left_padded

TASK = "candidates"  # in --tasks, and in layout.json
PIECES = 3  # of a template: before the history, between it and the candidates, after these
Draw = Callable[[int], np.ndarray]  # epoch -> candidate_EC


@dataclass(frozen=True)
class CandidateLayout:
    """The templates as text and as token ids, and what stands between names. Decoding uses the ids that were trained."""

    texts: tuple[tuple[str, ...], ...]  # [P][PIECES]
    pieces: tuple[tuple[list[int], ...], ...]  # the same
    separator: list[int]
    pad: int

    @classmethod
    def of(cls, tokenizer: Any, form: Format = PLAIN) -> CandidateLayout:
        """Every template in a form, every piece tokenised by itself."""

        def ids(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

        start = start_tokens(tokenizer) if form.start else []
        texts = cls.spelled(form)
        pieces = tuple((start + ids(before), ids(between), ids(after)) for before, between, after in texts)
        return cls(texts, pieces, ids(NEWLINE), pad_token(tokenizer))

    @staticmethod
    def spelled(form: Format) -> tuple[tuple[str, ...], ...]:
        """The pieces of every template, as text."""
        return tuple(tuple(template.pieces(form.wrap)) for template in TEMPLATES)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"texts": self.texts, "texts_hash": fingerprint(self.texts), "templates": self.pieces,
                "separator": self.separator, "pad": self.pad}  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CandidateLayout:
        """What `as_dict` gave."""
        texts, pieces = (tuple(map(tuple, data[name])) for name in ("texts", "templates"))
        return cls(texts, pieces, data["separator"], data["pad"])


@dataclass(frozen=True)
class CandidatePrompts:
    """Prompts of a catalogue's items in a layout."""

    layout: CandidateLayout
    catalogue: Catalogue

    def runs(self, history_BT: np.ndarray, candidate_BC: np.ndarray, template_B: np.ndarray) -> Runs:
        """The prompt of every row; histories are padded with -1 on the right, candidates stand in the order given."""
        parts, shortened = self._parts(history_BT, candidate_BC, template_B)
        real_BG = parts >= 0
        known = self._known.take(parts[real_BG])
        chosen = Runs(known.flat, known.start, known.length - len(self.layout.separator) * shortened[real_BG])
        length_B = np.bincount(np.nonzero(real_BG)[0], weights=chosen.length, minlength=len(parts)).astype(np.int64)
        return Runs.of(chosen.flat[chosen.places()], np.concatenate([[0], np.cumsum(length_B)]))

    def lengths(self, history_BT: np.ndarray, candidate_BC: np.ndarray, template_B: np.ndarray) -> np.ndarray:
        """Tokens of every prompt, without making it."""
        parts, shortened = self._parts(history_BT, candidate_BC, template_B)
        length_BG = np.where(parts >= 0, self._known.length[parts], 0) - len(self.layout.separator) * shortened
        found: np.ndarray = length_BG.sum(1)
        return found

    def padded(self, history_BT: np.ndarray, candidate_BC: np.ndarray, template: int) -> tuple[Tensor, Tensor]:
        """(input_BS, mask_BS) of prompts in one template, padded on the left for decoding."""
        return left_padded(self.runs(history_BT, candidate_BC, np.full(len(history_BT), template)), self.layout.pad)

    def _parts(
        self, history_BT: np.ndarray, candidate_BC: np.ndarray, template_B: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(part_BG, shortened_BG): each row's runs in their order, as numbers in `_known`, -1 for none; and which of them
        are names at the end of a list, that go without the separator."""
        first = PIECES * len(self.layout.pieces)  # names come after the pieces of templates
        name_BT, name_BC = (np.where(item >= 0, first + item, -1) for item in (history_BT, candidate_BC))
        piece_B1 = PIECES * template_B[:, None]
        last_BT, last_BC = (
            np.arange(item.shape[1]) == (item >= 0).sum(1)[:, None] - 1 for item in (history_BT, candidate_BC)
        )
        text_B1 = np.zeros_like(piece_B1, dtype=bool)
        return (
            np.concatenate([piece_B1, name_BT, piece_B1 + 1, name_BC, piece_B1 + 2], 1),
            np.concatenate([text_B1, last_BT, text_B1, last_BC, text_B1], 1),
        )

    @cached_property
    def _known(self) -> Runs:
        """Everything a prompt is made of: pieces of templates, then every item's name with the separator after it."""
        texts = Runs.of_lists([piece for template in self.layout.pieces for piece in template])
        token_ID, length_I = self.catalogue.token_ID, self.catalogue.length_I - 1  # without the end token
        name_ID = np.concatenate([token_ID, np.zeros((len(token_ID), len(self.layout.separator)), token_ID.dtype)], 1)
        end_IJ = length_I[:, None] + np.arange(len(self.layout.separator))
        np.put_along_axis(name_ID, end_IJ, np.array(self.layout.separator, name_ID.dtype)[None], 1)
        length_I = length_I + len(self.layout.separator)
        flat = name_ID[np.arange(name_ID.shape[1]) < length_I[:, None]]
        start_I = len(texts.flat) + np.cumsum(length_I) - length_I
        return Runs(np.concatenate([texts.flat, flat]), np.concatenate([texts.start, start_I]),
                    np.concatenate([texts.length, length_I]))  # fmt: skip


@dataclass(frozen=True)
class CandidateExamples:
    """Training examples as a `lm.steps.Source`: one per target, with the templates and candidates of an epoch."""

    prompts: CandidatePrompts
    history_ET: np.ndarray
    target_E: np.ndarray
    draw: Draw
    seed: int
    epoch: int = 0

    @classmethod
    def per_target(
        cls, sequences: Sequences, events: tuple[np.ndarray, np.ndarray], max_history: int, prompts: CandidatePrompts,
        draw: Draw, seed: int,
    ) -> CandidateExamples:  # fmt: skip
        """One example for each (user, end) of `events`; `draw` gives their candidates in an epoch."""
        return cls(prompts, histories(sequences, *events, max_history), targets(sequences, *events), draw, seed)

    @property
    def layout(self) -> CandidateLayout:
        return self.prompts.layout

    @property
    def names(self) -> tuple[str, ...]:
        """Of its one task."""
        return (TASK,)

    @property
    def wanted(self) -> tuple[int, ...]:
        """Examples of it in an epoch."""
        return (len(self),)

    def at(self, epoch: int) -> CandidateExamples:
        """The same targets with the templates and candidates of another epoch."""
        return replace(self, epoch=epoch)

    @cached_property
    def candidates(self) -> np.ndarray:
        """candidate_EC of the epoch."""
        return self.draw(self.epoch)

    @cached_property
    def templates(self) -> np.ndarray:
        """template_E of the epoch."""
        rng = np.random.default_rng([self.seed, self.epoch, len(self.layout.pieces)])
        return rng.integers(len(self.layout.pieces), size=len(self))

    def __len__(self) -> int:
        return len(self.target_E)

    def targets(self, rows: np.ndarray) -> int:
        """Number of targets of some examples."""
        return len(rows)

    def lengths(self) -> np.ndarray:
        """How many tokens each example has."""
        prompt_E = self.prompts.lengths(self.history_ET, self.candidates, self.templates)
        return prompt_E + self.prompts.catalogue.length_I[self.target_E]

    def supervised(self, rows: np.ndarray) -> int:
        """Number of supervised tokens of some examples: their targets' paths."""
        return int(self.prompts.catalogue.length_I[self.target_E[rows]].sum())

    def rewarded(self, rows: np.ndarray) -> int:
        """How many of them have collaborative rewards: all."""
        return self.supervised(rows)

    def batch(self, rows: np.ndarray) -> Batch:
        """Tokens, supervised positions, histories and candidates of some examples, padded on the right."""
        catalogue, item_B = self.prompts.catalogue, self.target_E[rows]
        history_BT, candidate_BC = self.history_ET[rows], self.candidates[rows]
        history_BT = history_BT[:, : max(int((history_BT >= 0).sum(1).max()), 1)]
        inside = np.arange(catalogue.token_ID.shape[1]) < catalogue.length_I[item_B][:, None]
        response = Runs.of(
            catalogue.token_ID[item_B][inside], np.concatenate([[0], np.cumsum(catalogue.length_I[item_B])])
        )
        shown = np.concatenate([[0], np.cumsum((history_BT >= 0).sum(1))])
        made = Rows(
            self.prompts.runs(history_BT, candidate_BC, self.templates[rows]), response,
            catalogue.node_ID[item_B][inside], Runs.of(history_BT[history_BT >= 0], shown), np.zeros(len(rows), dtype=np.int64),
            self.layout.pad,
        )  # fmt: skip
        batch = made.batch(np.arange(len(rows)))
        return batch._replace(task_N=None, candidate_MC=torch.from_numpy(candidate_BC.astype(np.int64)))
