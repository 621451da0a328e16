"""A report's content -> files: a page, and beside it Markdown, LaTeX, CSV and figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Report
from ilrec_cli.stages import _html, _report_tables, _table
from ilrec_cli.stages._page import Content
from ilrec_cli.stages._report_rows import Groups
from ilrec_cli.stages._table import Table

DRAWN = ("svg", "png", "pdf")
COLUMNS = ("protocol", "run", "kind", "list found by", "seed", "slice", "events", "metric", "value", "low", "high")


def write(content: Content, groups: Groups, target: Path, config: Report) -> list[Path]:
    """All formats that are asked for; where they lie, the page (or what stands for it) first."""
    folder = target.with_suffix("") if target.suffix else target.with_name(f"{target.name}-files")
    texts: dict[str, tuple[Path, Callable[[], str]]] = {
        "html": (target, lambda: _page(content, config)),
        "md": (folder / "report.md", lambda: _markdown(content, config)),
        "tex": (folder / "tables.tex", lambda: _latex(content, groups)),
        "csv": (folder / "results.csv", lambda: _csv(groups)),
    }
    written = []
    for name, (path, text) in texts.items():
        if name in config.formats:
            _make_folder(path)
            artifacts.write_text(path, text())
            written.append(path)
    wanted = [name for name in DRAWN if name in config.formats]
    for drawing in content.drawings if wanted else []:
        _make_folder(folder / "figures" / drawing.name)
        for name in wanted:
            _html.save(drawing.figure, folder / "figures" / f"{drawing.name}.{name}")
    written += [folder / "figures"] if wanted and content.drawings else []
    if not written:
        raise UserError(
            f"--formats {','.join(config.formats)}: there is no figure to write"
            + " (pip install 'ilrec[plots]')" * (not content.figures)
        )
    return written


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the folder cannot be made ({error.strerror}). Choose another --output") from error


def _page(content: Content, config: Report) -> str:
    return _html.page(
        "report.html.jinja", content=content, statistics=content.card["statistics"], source=content.card["source"],
        figures=content.figures, refresh=config.every if config.watch else None,
    )  # fmt: skip


def _markdown(content: Content, config: Report) -> str:
    """The same as a page that GitHub renders; figures where they are written too."""
    ending = next((name for name in ("svg", "png") if name in config.formats), None)
    return _html.page(
        "report.md.jinja", content=content, statistics=content.card["statistics"], source=content.card["source"],
        ending=ending, plain=_table.plain, table=lambda table: _table.markdown(table, intervals=_has_room(table)),
    )  # fmt: skip


def _has_room(table: Table) -> bool:
    """Intervals stand beside the numbers unless there are too many columns to read them."""
    return sum(column.ranked for column in table.columns) <= len(_report_tables.PAIRED)


def _latex(content: Content, groups: Groups) -> str:
    """Every table; the results once with all metrics and once with intervals."""
    tables = []
    for number, (title, rows) in enumerate(groups.items(), start=1):
        short = _report_tables.results(
            f"results-{number}-intervals", f"{title}, with 95 % intervals", rows, _report_tables.SHORT
        )
        tables += [_table.latex(short, intervals=True)]
    tables = [*(_table.latex(table, intervals=_has_room(table)) for table in content.tables), *tables]
    return "% Tables of ilrec report. In the preamble: \\usepackage{booktabs}\n\n" + "\n\n".join(tables) + "\n"


def _csv(groups: Groups) -> str:
    """Every metric of every model and slice, a line each, with all digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_lines(groups))
    return buffer.getvalue()


def _lines(groups: Groups) -> Iterator[list[Any]]:
    for title, rows in groups.items():
        for row in rows:
            parts = {"": row.result} | {
                f"{kind}: {part}": each for kind, found in row.slices.items() for part, each in found.items()}  # fmt: skip
            for part, each in parts.items():
                for metric, value in each["metrics"].items():
                    low, high = each.get("intervals", {}).get(metric, (None, None))
                    yield [
                        title,
                        row.name,
                        row.kind,
                        row.search,
                        row.seed,
                        part,
                        each["events"],
                        metric,
                        value,
                        low,
                        high,
                    ]
