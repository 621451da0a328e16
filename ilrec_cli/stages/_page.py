"""A report put together: sections of tables, figures and examples; where there is no data for one, a line says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.json_log import read_log
from ilrec_cli.settings import Report
from ilrec_cli.stages import (
    _html,
    _ids_page,
    _ids_table,
    _inputs,
    _registry,
    _report_figures,
    _report_sensitivity,
    _report_tables,
)
from ilrec_cli.stages import _report_examples as _examples
from ilrec_cli.stages._html import Drawing
from ilrec_cli.stages._report_examples import Example
from ilrec_cli.stages._report_rows import Groups, Row, trained
from ilrec_cli.stages._report_tables import Compare
from ilrec_cli.stages._table import Column, Table


@dataclass
class Section:
    """A heading and what stands under it."""

    name: str
    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


class Content(NamedTuple):
    """All of a report, before it has a format."""

    dataset: str
    card: dict[str, Any]
    sections: list[Section]
    missing: list[str]  # what was left out, and why
    figures: bool = True  # whether anything could be drawn

    @property
    def tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]

    @property
    def drawings(self) -> list[Drawing]:
        return [drawing for section in self.sections for drawing in section.drawings]


class Maker:
    """Builds the sections one after another; `figures`: whether anything can be drawn."""

    def __init__(self, config: Report, data: Artifact, groups: Groups, compare: Compare, *, figures: bool):
        self.config, self.data, self.groups, self.compare, self.figures = config, data, groups, compare, figures
        self.rows = list(trained(groups).values())
        entries = _registry.entries(config.work, config.dataset)
        self.logs = {(each.name, each.kind): read_log(each.train / "log.jsonl") for each in entries}
        # A model keeps its colour in every figure of the page, whatever it is called there.
        rows = [row for each in groups.values() for row in each]
        self.colours = _html.colours(dict.fromkeys(row.label for row in rows))
        named = {row.name: self.colours[row.label] for row in reversed(rows)}
        others = dict.fromkeys(name for name, _ in self.logs if name not in named)
        self.colours = _html.colours([*self.colours, *others]) | named
        self.sections: list[Section] = []
        self.missing: list[str] = []

    def content(self) -> Content:
        """Every section there is data for."""
        numbered = [(f"results-{number}", *group) for number, group in enumerate(self.groups.items(), start=1)]
        tested = [each for each in numbered if each[1].startswith("test")]
        for each in tested:
            self._results(*each)
        if not self.groups:
            self.missing.append("results: nothing is evaluated yet (ilrec evaluate)")
        else:
            first = next(iter(self.groups.values()))
            self._examples(first)
            self._explanation(first)
        self._training()
        self._identifiers()
        for each in numbered:
            if each not in tested:
                self._results(*each)
        self._costs()
        return Content(self.config.dataset, self.data.json("card.json"), self.sections, self.missing, self.figures)

    def _results(self, name: str, title: str, rows: list[Row]) -> None:
        section = Section(name, f"Results on the {self._short(title)}", title)
        section.tables.append(_report_tables.results(name, title, rows))
        section.drawings += [_report_figures.bars(f"{name}-bars", rows, self.colours)] if self.figures else []
        base = _report_tables.base_of(rows, self.config.base)
        others = _report_tables.comparable(base, rows) if base else []
        if base and others:
            heading = f"Is it real? Differences from {base.name}"
            section.tables.append(
                _report_tables.differences(f"{name}-differences", heading, base, others, self.compare)
            )
        for full, variants in _report_tables.ablations(rows):
            heading = f"Ablations of {full.kind}: differences from {full.name}"
            section.tables.append(
                _report_tables.differences(f"{name}-ablations-{full.kind}", heading, full, variants, self.compare)
            )
        section.tables.append(_report_tables.lists(f"{name}-lists", rows))
        self.sections.append(section)
        self._sensitivity(name, title, rows)
        self._slices(name, title, rows)

    def _short(self, title: str) -> str:
        """As much of a protocol's words as tells it from the others: test split; test split, 400 events."""
        parts = title.split(", ")
        others = [other for other in self.groups if other != title]
        shorts = (", ".join(parts[:length]) for length in range(1, len(parts)))
        return next((short for short in shorts if not any(other.startswith(f"{short}, ") for other in others)), title)

    def _sensitivity(self, name: str, title: str, rows: list[Row]) -> None:
        drawings = _report_sensitivity.draw(f"{name}-settings", rows) if self.figures else []
        if drawings:
            heading = f"What the settings do, on the {self._short(title)}"
            self.sections.append(Section(f"{name}-settings", heading, title, drawings=drawings))

    def _slices(self, name: str, title: str, rows: list[Row]) -> None:
        tables = _report_tables.slices(f"{name}-slices", title, rows)
        drawing = _report_figures.slices(f"{name}-slices", rows, self.colours) if self.figures else None
        if tables:
            section = Section(f"{name}-slices", f"For whom it works, on the {self._short(title)}", title, tables)
            section.drawings += [drawing] if drawing else []
            self.sections.append(section)

    def _training(self) -> None:
        """Curves of every run with a log, also of those that still go on."""
        if not self.figures:
            self.missing.append("all figures: matplotlib is not installed (pip install 'ilrec[plots]')")
            return
        models, others = (
            {name: log for (name, kind), log in self.logs.items() if kind == wanted and log} for wanted in ("run", "cf")
        )
        for name, title, drawing, reason in (
            ("training", "Training of the language models", _report_figures.terms(models, self.colours), "no run has a log"),
            ("layers", "What the layers predict", _report_figures.layers(models),
             "no run logged its layers (train --probe-layers all)"),
            ("negatives", "The negatives over training", _report_figures.negatives(models, self.colours),
             "no run has negatives (train --method ilrec)"),
            ("collaborative", "Training of the collaborative models", _report_figures.collaborative(others, self.colours),
             "no collaborative model has a log"),
        ):  # fmt: skip
            if drawing is None:
                self.missing.append(f"{title[0].lower()}{title[1:]}: {reason}")
            else:
                self.sections.append(Section(name, title, drawings=[drawing]))

    def _identifiers(self) -> None:
        root = _inputs.dataset_dir(self.config) / "ids"
        found = {}
        for name, path in _inputs.finished(root, "ids").items():
            ids = artifacts.read(path, "ids")
            if ids.manifest["parents"].get("data") == self.data.digest:
                try:
                    found[name] = _ids_table.figures(ids)
                except UserError as error:
                    self.missing.append(f"identifiers {name}: {error}")
        if not found:
            self.missing.append("item identifiers: none are made from these data (ilrec build-ids)")
            return
        rows = [[label.replace("  ", "\N{EM SPACE}"), *cells] for label, cells in _ids_table.table(found)]
        table = Table(
            "ids",
            "All that was measured of them",
            [Column("of the identifiers"), *map(Column, found)],
            rows,
            open=False,
        )
        drawings = _ids_page.drawings(found) if self.figures else []
        self.sections.append(Section("ids", "Item identifiers", tables=[table], drawings=drawings))

    def _examples(self, rows: Sequence[Row]) -> None:
        rows = [row for row in rows if row.is_ranked]
        long = [row for row in rows if _report_tables.is_paired(row)]
        models = [row for row in long if row.is_lm] or long
        if not models:
            self.missing.append("hits and misses: no evaluation has lists of 10")
            return
        main = max(models, key=lambda row: row.metrics.get("ndcg@10", 0.0))
        found = _examples.examples(self.data, rows, main)
        text = f"Lists of {main.label}, drawn by a fixed seed: what came next is among the first {_examples.LISTED}, or not among the first {_examples.MISS}."
        self.sections.append(Section("examples", "Hits and misses", text, examples=found))

    def _explanation(self, rows: Sequence[Row]) -> None:
        text, tables, reason = _examples.explained(self.config, self.data, rows)
        if reason:
            self.missing.append(f"what the layers thought of a path: {reason}")
        else:
            self.sections.append(Section("explained", "What the layers thought, and what is penalised", text, tables))

    def _costs(self) -> None:
        table = _report_tables.costs(self.rows)
        if table is None:
            self.missing.append("what training took: no log and no cost.json")
        tables = [*([table] if table else []), *([_report_tables.made_of(self.rows)] if self.rows else [])]
        if tables:
            self.sections.append(Section("models", "The models", tables=tables))
