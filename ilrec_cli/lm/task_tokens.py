"""Everything that prompts and responses are put together from, as token ids: item paths, texts, pieces of templates.

A unit is a run of tokens with a number; a prompt is a sequence of units. Shapes: I items, U units, T templates, P parts
of a template, B examples, G units of all examples one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli.lm import prompts
from ilrec_cli.lm.examples import Catalogue, start_tokens
from ilrec_cli.lm.prompts import Format
from ilrec_cli.lm.rows import Runs
from ilrec_cli.lm.templates import Template

CONST, ITEM, LIST, PREFERENCE, QUERY = range(5)  # what chooses the unit of a part; -1: there is no such part
KIND = {"item": ITEM, "title": ITEM, "description": ITEM, "history": LIST, "titles": LIST, "preference": PREFERENCE, "query": QUERY}  # fmt: skip
TEXTS = ("title", "description", "preference", "query")


class Texts(NamedTuple):
    """Text by item, empty where there is none, and what users said, in the places that `Cases` names."""

    title_I: Sequence[str]
    description_I: Sequence[str]
    preference: Sequence[str] = ()
    query: Sequence[str] = ()


class Parts(NamedTuple):
    """Templates as parts, padded: unit `base` itself, or the one so many places after it."""

    kind_TP: np.ndarray
    base_TP: np.ndarray
    separator_TP: np.ndarray  # between the items of a list


class Chosen(NamedTuple):
    """What fills the fields of some examples."""

    template_B: np.ndarray
    item_B: np.ndarray
    history: Runs
    preference_B: np.ndarray
    query_B: np.ndarray

    def take(self, rows: np.ndarray) -> Chosen:
        pick = (self.template_B, self.item_B, self.preference_B, self.query_B)
        template_B, item_B, preference_B, query_B = (part[rows] for part in pick)
        return Chosen(template_B, item_B, self.history.take(rows), preference_B, query_B)


class Tokens:
    """Units of a tokenizer's, and templates over them."""

    def __init__(self, tokenizer: Any, catalogue: Catalogue, texts: Texts, form: Format):
        self.tokenizer, self.form = tokenizer, form
        self._flat: list[np.ndarray] = []
        self._node: list[np.ndarray] = []
        self._start: list[np.ndarray] = []
        self._length: list[np.ndarray] = []
        self._places = self._units = 0
        self._known: dict[tuple[int, ...], int] = {}
        self.items = len(catalogue.length_I)
        self._texts = dict(zip(TEXTS, texts, strict=True))
        self._spaces_itself = _spaces_itself(tokenizer)
        self._base = {"item": self._add_items(catalogue)}

    def compile(self, templates: Sequence[Template]) -> tuple[Parts, Parts]:
        """(prompts, responses with their end token) of some templates."""
        asked, answered = [], []
        for template in templates:
            start = start_tokens(self.tokenizer) if self.form.start else []
            asked.append(self._parts(*prompts.split(template.prompt, self.form.wrap), start, []))
            pieces, fields = prompts.split(template.answer, str)
            if template.answer == "{item}":  # with its own end token, before which there is a trie node too
                answered.append([(ITEM, self._base["item"] + self.items, -1)])
            else:
                answered.append(self._parts(pieces, fields, [], [self.tokenizer.eos_token_id]))
        return _padded(asked), _padded(answered)

    def finish(self) -> tuple[Runs, np.ndarray]:
        """(tokens of all units, the trie node before each of them or -1); nothing can be added after."""
        start_U, length_U = np.concatenate(self._start), np.concatenate(self._length)
        return Runs(np.concatenate(self._flat), start_U, length_U), np.concatenate(self._node)

    def _parts(
        self, pieces: list[str], fields: list[str], before: list[int], after: list[int]
    ) -> list[tuple[int, int, int]]:
        """(kind, base, separator) of every part that has any token."""
        parts = []
        for place, piece in enumerate(pieces):
            field = fields[place] if place < len(fields) else None
            if field in TEXTS and piece.endswith(" "):
                piece, field = piece[:-1], f" {field}"
            tokens = self._encode(piece)
            parts.append((CONST, self._constant([*before, *tokens] if place == 0 else tokens), -1))
            if field is not None:
                separator = prompts.TITLES_SEPARATOR if field == "titles" else prompts.SEPARATOR
                kind = KIND[field.strip()]
                parts.append(
                    (kind, self._base_of(field), self._constant(self._encode(separator)) if kind == LIST else -1)
                )
        parts.append((CONST, self._constant(after), -1))
        return [part for part in parts if part != (CONST, self._constant([]), -1)]

    def _base_of(self, field: str) -> int:
        """The first unit of a field's values; texts are tokenised when a template first speaks of them.

        A text after a space (named with one before it) begins with the space, as it would if all were tokenised at once.
        """
        name = {"history": "item", "titles": "title"}.get(field, field)
        if self._spaces_itself:
            name = name.strip()
        if name not in self._base:
            texts = self._texts[name.strip()]
            self._base[name] = self._add_texts(
                [f" {text}" if text else "" for text in texts] if name[0] == " " else texts
            )
        return self._base[name]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _constant(self, tokens: Sequence[int]) -> int:
        """The unit of these tokens, one for all templates that have them."""
        key = tuple(tokens)
        if key not in self._known:
            self._known[key] = self._add(Runs.of_lists([key]))
        return self._known[key]

    def _add_texts(self, texts: Sequence[str]) -> int:
        """Text spells tokens of its own only: what looks like a special token is split like any other."""
        if not texts:
            return self._units
        rows = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        return self._add(Runs.of_lists(rows))

    def _add_items(self, catalogue: Catalogue) -> int:
        """Item paths without their end token, then with it, and the trie node before each token."""
        inside_ID = np.arange(catalogue.token_ID.shape[1]) < catalogue.length_I[:, None]
        whole = Runs.of(catalogue.token_ID[inside_ID], np.cumsum([0, *catalogue.length_I]))
        start, length = np.tile(whole.start, 2), np.concatenate([whole.length - 1, whole.length])
        return self._add(Runs(whole.flat, start, length), catalogue.node_ID[inside_ID])

    def _add(self, runs: Runs, node: np.ndarray | None = None) -> int:
        base = self._units
        self._flat.append(runs.flat)
        self._node.append(np.full(len(runs.flat), -1) if node is None else node)
        self._start.append(runs.start + self._places)
        self._length.append(runs.length)
        self._places, self._units = self._places + len(runs.flat), base + len(runs)
        return base


def units_of(parts: Parts, chosen: Chosen) -> tuple[np.ndarray, np.ndarray]:
    """(unit_G, row_G): the units of the examples, in their order."""
    kind_BP, base_BP, separator_BP = (each[chosen.template_B] for each in parts)
    index_BP = np.zeros_like(base_BP)
    for kind, index_B in ((ITEM, chosen.item_B), (PREFERENCE, chosen.preference_B), (QUERY, chosen.query_B)):
        index_BP = np.where(kind_BP == kind, index_B[:, None], index_BP)
    listed_B1 = np.maximum(2 * chosen.history.length - 1, 0)[:, None]
    count_BP = np.where(kind_BP == LIST, listed_B1, (kind_BP >= 0).astype(np.int64))
    part_G = np.repeat(np.arange(count_BP.size), count_BP.ravel())
    nth_G = np.arange(len(part_G)) - np.repeat(np.cumsum(count_BP) - count_BP.ravel(), count_BP.ravel())
    row_G = part_G // kind_BP.shape[1]
    unit_G = (base_BP + index_BP).ravel()[part_G]
    listed = kind_BP.ravel()[part_G] == LIST
    item = listed & (nth_G % 2 == 0)
    unit_G[item] += chosen.history.flat[chosen.history.start[row_G[item]] + nth_G[item] // 2]
    between = listed & (nth_G % 2 == 1)
    unit_G[between] = separator_BP.ravel()[part_G[between]]
    return unit_G, row_G


def sizes_of(parts: Parts, length_U: np.ndarray, chosen: Chosen) -> np.ndarray:
    """size_B: the tokens of the units of each example, without listing them."""
    kind_BP, base_BP, separator_BP = (each[chosen.template_B] for each in parts)
    size_B = np.zeros(len(chosen.item_B), dtype=np.int64)
    history = chosen.history
    for kind, base_B, separator_B in zip(kind_BP.T, base_BP.T, separator_BP.T, strict=True):
        for own, index_B in ((CONST, 0), (ITEM, chosen.item_B), (PREFERENCE, chosen.preference_B), (QUERY, chosen.query_B)):  # fmt: skip
            here = kind == own
            size_B[here] += length_U[(base_B + index_B)[here]]
        for base in np.unique(base_B[kind == LIST]):
            here = np.flatnonzero((kind == LIST) & (base_B == base))
            total = np.concatenate([[0], np.cumsum(length_U[base + history.flat])])
            start, count = history.start[here], history.length[here]
            between = np.maximum(count - 1, 0) * length_U[separator_B[here]]
            size_B[here] += total[start + count] - total[start] + between
    return size_B


def _padded(rows: list[list[tuple[int, int, int]]]) -> Parts:
    width = max(map(len, rows))
    whole = np.array([row + [(-1, 0, -1)] * (width - len(row)) for row in rows], dtype=np.int64)
    return Parts(whole[:, :, 0], whole[:, :, 1], whole[:, :, 2])


def _spaces_itself(tokenizer: Any) -> bool:
    """Whether a text's first word has a space before it in any case, as with Llama-2's tokenizer."""
    first, *_ = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))
    return str(first).startswith("\u2581")
