"""Examples of several tasks: drawn anew for every epoch, put together batch by batch.

Shapes: C cases of a task, E examples of an epoch, B examples of a batch, T templates, F fields.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli.errors import UserError
from ilrec_cli.lm import templates
from ilrec_cli.lm.examples import Batch, Catalogue, pad_token
from ilrec_cli.lm.prompts import Format
from ilrec_cli.lm.rows import Rows, Runs
from ilrec_cli.lm.task_tokens import Chosen, Parts, Texts, Tokens, sizes_of, units_of
from ilrec_cli.lm.tasks import REWARDED, Cases, Share, draw, draw_templates
from ilrec_cli.lm.templates import Template

Arrays = dict[str, np.ndarray]
Once = Callable[[Callable[[], Arrays]], Arrays]  # such as `stages._processes.once_a_machine`
STREAM = 8  # of the run's generators: which examples and templates an epoch has


class Book(NamedTuple):
    """All templates of the tasks at hand, over the units of a tokenizer."""

    templates: tuple[Template, ...]
    prompt: Parts
    response: Parts
    units: Runs
    node: np.ndarray  # beside units.flat
    rewarded_T: np.ndarray
    pad: int

    def sizes(self, parts: Parts, chosen: Chosen) -> np.ndarray:
        """How many tokens each example's prompt or response has."""
        return sizes_of(parts, self.units.length, chosen)

    def tokens(self, parts: Parts, chosen: Chosen) -> tuple[Runs, np.ndarray]:
        """(token runs of the examples, the node before each token)."""
        unit_G, row_G = units_of(parts, chosen)
        units = self.units.take(unit_G)
        place_K = units.places()
        size_B = np.bincount(row_G, units.length, len(chosen.item_B)).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(size_B)])
        return Runs.of(self.units.flat[place_K], offsets), self.node[place_K]


@dataclass(frozen=True)
class TaskRows:
    """A `lm.steps.Source` over several tasks. Which cases, templates and texts an epoch has follows from its number."""

    book: Book
    cases: tuple[Cases, ...]  # of each task, those that some template fits
    fits: tuple[np.ndarray, ...]  # fits_CT of each task, over all templates
    wanted: tuple[int, ...]  # examples of each task
    seed: int
    chosen: Chosen
    task_E: np.ndarray

    @classmethod
    def build(
        cls, tokenizer: Any, catalogue: Catalogue, texts: Texts, cases: Sequence[Cases], shares: Sequence[Share],
        *, form: Format, max_length: int, seed: int, once: Once | None = None,
    ) -> tuple[TaskRows, list[str]]:  # fmt: skip
        """(examples of the first epoch, what was left out and why).

        Tokens of templates and texts are arrays of a `Book`; `once` may get them from a process that has made them.
        """
        tokens = partial(Tokens, tokenizer, catalogue, texts, form)
        book = _book(tokens, [each.task for each in cases], once, pad_token(tokenizer))
        notes, kept, fits = [], [], []
        for each in cases:
            has_CT, short_CT = _has_fields(book, each, texts), _is_short(book, each, max_length)
            fits_CT = has_CT & short_CT
            some_C = fits_CT.any(1)
            notes += _notes(each.task, has_CT, some_C, max_length)
            kept.append(each.take(np.flatnonzero(some_C)))
            fits.append(fits_CT[some_C])
        wanted = tuple(share.of(len(each)) if len(each) else 0 for share, each in zip(shares, kept, strict=True))
        for share, count in zip(shares, wanted, strict=True):
            if not count:
                why = "; ".join(note for note in notes if note.startswith(f"{share.task}:")) or "so few are asked for"
                raise UserError(f"--tasks {share.task}: no example is left ({why})")
        nothing = np.zeros(0, dtype=np.int64)
        empty = Chosen(nothing, nothing, Runs(nothing, nothing, nothing), nothing, nothing)
        return cls(book, tuple(kept), tuple(fits), wanted, seed, empty, nothing).at(0), notes

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, by the number that batches carry."""
        return tuple(each.task for each in self.cases)

    def __len__(self) -> int:
        return sum(self.wanted)

    def at(self, epoch: int) -> TaskRows:
        """The examples of an epoch."""
        rng = np.random.default_rng([self.seed, epoch, STREAM])
        parts = []
        for cases, fits_CT, wanted in zip(self.cases, self.fits, self.wanted, strict=True):
            case_E = draw(len(cases), wanted, rng)
            parts.append(_chosen(cases.take(case_E), draw_templates(fits_CT[case_E], rng), rng.random))
        return replace(self, chosen=_joined(parts), task_E=np.repeat(np.arange(len(self.cases)), self.wanted))

    def lengths(self) -> np.ndarray:
        """How many tokens each example has."""
        return self.book.sizes(self.book.prompt, self.chosen) + self.book.sizes(self.book.response, self.chosen)

    def supervised(self, rows: np.ndarray) -> int:
        """Number of response tokens of some examples."""
        return int(self.book.sizes(self.book.response, self.chosen.take(rows)).sum())

    def rewarded(self, rows: np.ndarray) -> int:
        """How many of them have collaborative rewards."""
        return self.supervised(rows[self.book.rewarded_T[self.chosen.template_B[rows]]])

    def batch(self, rows: np.ndarray) -> Batch:
        """Tokens, supervised positions and histories of some examples, padded on the right."""
        return self.rows(rows).batch(np.arange(len(rows)))

    def rows(self, rows: np.ndarray) -> Rows:
        """Some of the examples as runs of tokens."""
        chosen, book = self.chosen.take(rows), self.book
        prompt, _ = book.tokens(book.prompt, chosen)
        response, node = book.tokens(book.response, chosen)
        rewarded_K = np.repeat(book.rewarded_T[chosen.template_B], response.length)
        return Rows(prompt, response, np.where(rewarded_K, node, -1), chosen.history, self.task_E[rows], book.pad)


def _book(tokens: Callable[[], Tokens], names: Sequence[str], once: Once | None, pad: int) -> Book:
    found = tuple(template for name in names for template in templates.every()[name])

    def make() -> Arrays:
        made = tokens()
        prompt, response = made.compile(found)
        units, node = made.finish()
        parts: dict[str, Any] = {"prompt": prompt, "response": response, "units": units}
        return {"node": node} | {
            f"{name}.{key}": each for name, part in parts.items() for key, each in part._asdict().items()
        }

    arrays = once(make) if once else make()
    prompt, response = (Parts(*(arrays[f"{name}.{key}"] for key in Parts._fields)) for name in ("prompt", "response"))
    units = Runs(*(arrays[f"units.{key}"] for key in Runs._fields))
    rewarded_T = np.array([REWARDED[template.task, template.form] for template in found])
    return Book(found, prompt, response, units, arrays["node"], rewarded_T, pad)


def _has_fields(book: Book, cases: Cases, texts: Texts) -> np.ndarray:
    """has_CT: whether a case has everything that a template of its task speaks of."""
    history = cases.history
    title_I, description_I = (np.array([bool(text) for text in each]) for each in (texts.title_I, texts.description_I))
    untitled = np.concatenate([[0], np.cumsum(~title_I[history.flat])])
    shown = history.length > 0
    has = {
        "item": cases.item >= 0,
        "title": title_I[cases.item] & (cases.item >= 0),
        "description": description_I[cases.item] & (cases.item >= 0),
        "history": shown,
        "titles": shown & (untitled[history.start + history.length] == untitled[history.start]),
        "preference": cases.preference[1] > 0,
        "query": cases.query[1] > 0,
    }
    own = [template.task == cases.task for template in book.templates]
    every = np.ones(len(cases), dtype=bool)
    columns = [
        np.logical_and.reduce([every, *(has[field] for field in template.fields)]) if mine else ~every
        for template, mine in zip(book.templates, own, strict=True)
    ]
    return np.stack(columns, 1)


def _is_short(book: Book, cases: Cases, max_length: int) -> np.ndarray:
    """short_CT: whether an example of the case in a template of its task is no longer than so many tokens."""
    short_CT = np.zeros((len(cases), len(book.templates)), dtype=bool)
    texts = max([1, *cases.preference[1], *cases.query[1]])
    for place, template in enumerate(book.templates):
        if template.task == cases.task:
            short_CT[:, place] = True
            for nth in range(texts):
                chosen = _chosen(cases, np.full(len(cases), place), partial(np.full, fill_value=nth / texts))
                size_C = book.sizes(book.prompt, chosen) + book.sizes(book.response, chosen)
                short_CT[:, place] &= size_C <= max_length
    return short_CT


def _chosen(cases: Cases, template_E: np.ndarray, random: Callable[[int], np.ndarray]) -> Chosen:
    """The cases in these templates, each with one of its texts."""
    texts = [first + (random(len(cases)) * count).astype(np.int64) for first, count in (cases.preference, cases.query)]
    return Chosen(template_E, cases.item, cases.history, *texts)


def _joined(parts: Sequence[Chosen]) -> Chosen:
    """Examples of all tasks, one after another; histories keep lying in arrays of their own."""
    flats = list({id(part.history.flat): part.history.flat for part in parts}.values())
    base = dict(zip(map(id, flats), np.cumsum([0, *map(len, flats)]).tolist(), strict=False))
    starts = [part.history.start + base[id(part.history.flat)] for part in parts]
    history = Runs(
        np.concatenate(flats), np.concatenate(starts), np.concatenate([part.history.length for part in parts])
    )
    columns = [np.concatenate(column) for column in zip(*((p.template_B, p.item_B, p.preference_B, p.query_B) for p in parts), strict=True)]  # fmt: skip
    return Chosen(columns[0], columns[1], history, columns[2], columns[3])


def _notes(task: str, has_CT: np.ndarray, some_C: np.ndarray, max_length: int) -> list[str]:
    """What to say of cases without any template: no text, or too long."""
    missing, long = int((~has_CT.any(1)).sum()), int((has_CT.any(1) & ~some_C).sum())
    return [
        f"{task}: {count:,} of {len(some_C):,} left out, {why}"
        for count, why in ((missing, "without text"), (long, f"longer than --max-length {max_length}"))
        if count
    ]
