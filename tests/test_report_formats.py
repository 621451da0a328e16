"""The report says in every format what metrics.json says, with the right marks and every sign; LaTeX goes through pdflatex."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reporting import Cells, check_latex, compiled, row

from ilrec_cli.metrics import REPORTED
from ilrec_cli.settings import Report
from ilrec_cli.stages import _report_tables, _report_write, _table
from ilrec_cli.stages._page import Content, Section
from ilrec_cli.stages._report_rows import Row
from ilrec_cli.stages._table import Column, Table, Value

CARD = {
    "source": "toy",
    "statistics": {"users": 1, "items": 2, "interactions": 3, "training_targets": 4, "sparsity": 0.5},
}
SIGNS = (
    "".join(map(chr, range(1, 0x180)))
    + "\N{EN DASH}\N{MINUS SIGN}\N{GREEK CAPITAL LETTER DELTA}\N{EM DASH}\u4e2d\U0001f3b8"
)
share = st.floats(0, 1, allow_nan=False)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Models with odd names and any metrics, some of them equal."""
    names = draw(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=9), min_size=1, max_size=4,
                          unique=True))  # fmt: skip
    pool = draw(st.lists(share, min_size=1, max_size=6))
    value = st.sampled_from(pool)
    return [
        row(
            name,
            {metric: draw(value) for metric in REPORTED},
            {metric: sorted([draw(share), draw(share)]) for metric in REPORTED},
        )
        for name in names
    ]


@settings(max_examples=15, deadline=None)
@given(rows())
def test_numbers_and_marks_of_all_formats_are_those_of_the_metrics(found: list[Row]) -> None:
    table = _report_tables.results("results", "a split", found)
    content = Content("toy", CARD, [Section("results", "Results", tables=[table])], [])
    config = Report(dataset="toy")
    page = [cells for cells in Cells(_report_write._page(content, config)).rows if cells]
    markdown = [line for line in _report_write._markdown(content, config).splitlines() if line.startswith("| ")][2:]
    latex = [line for line in _table.latex(table, intervals=True).splitlines() if line.endswith(r"\\")][1:]
    parsed = list(csv.DictReader(_report_write._csv({"a split": found}).splitlines()))
    assert len(page) == len(markdown) == len(latex) == len(found)
    for place, each in enumerate(found):
        assert page[place][0][0] == each.name
        for column, metric in enumerate(REPORTED, start=2):
            text, mark = f"{each.metrics[metric]:.4f}", expected_mark(found, metric, each)
            low, high = (f"{end:.4f}" for end in each.result["intervals"][metric])
            assert page[place][column] == [text, f"{low}\N{EN DASH}{high}", f"number {mark}".strip()]
            shown = {"best": f"**{text}**", "second": f"*{text}*", "": text}[mark]
            assert re.split(r"(?<!\\)\|", markdown[place])[column + 1].strip() == shown
            shown = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "": text}[mark]
            assert re.split(r"(?<!\\)&", latex[place])[column].removesuffix(r"\\").strip() == f"{shown} ({low}--{high})"
        exact = {line["metric"]: line for line in parsed if line["run"] == each.name}
        for metric in REPORTED:
            assert float(exact[metric]["value"]) == each.metrics[metric]
            assert [float(exact[metric][end]) for end in ("low", "high")] == each.result["intervals"][metric]
    check_latex(_report_write._latex(content, {"a split": found}))


def expected_mark(found: list[Row], metric: str, each: Row) -> str:
    """By what a reader sees: numbers printed alike are equal; a model alone is not the best of anything."""
    if len(found) == 1:
        return ""
    printed = sorted({round(other.metrics[metric], 4) for other in found}, reverse=True)
    return {0: "best", 1: "second"}.get(printed.index(round(each.metrics[metric], 4)), "")


def test_the_structural_check_can_fail() -> None:
    good = _table.latex(Table("t", "a_b 100 %", [Column("x"), Column("y")], [["a & b", Value(0.5)]]))
    check_latex(good)
    for fault in (
        good.replace(r"\&", "&"),
        good.replace(r"\_", "_"),
        good.replace("}", "", 1),
        good.replace(r"\end{table}", ""),
    ):
        with pytest.raises(AssertionError):
            check_latex(fault)


def test_marks_of_a_column_with_gaps() -> None:
    table = Table(
        "t", "t", [Column("a"), Column("b", ranked=True)], [["x", None], ["y", 0.1], ["z", 0.10001], ["w", 0.05]]
    )
    assert [cells[1].mark for cells in table.cells()] == ["", "best", "best", "second"]
    assert table.numeric() == [False, True]
    assert _table.markdown(table).splitlines()[2] == "| x | - |"


def test_markdown_renders_to_the_very_texts() -> None:
    """By a CommonMark reader with GitHub's tables and struck out text; formulas and mentions are GitHub's own."""
    reader = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    texts = [
        "a|b",
        "~~x~~",
        "&amp; <b>",
        "*a* _b_ `c`",
        "[a](b)",
        r"\|",
        "# 1",
        "5 $a$ $",
        "1. x",
        "- y",
        "> z",
        "<a_3>",
    ]
    table = Table(
        "t", "t", [Column("run"), Column("v", ranked=True)], [[text, Value(0.5 + n)] for n, text in enumerate(texts)]
    )
    page = Cells(reader.render(_table.markdown(table)))
    assert [row[0][0] for row in page.rows if row] == texts
    assert "\\$a\\$" in _table.plain("$a$"), "GitHub would set it as a formula"


def test_every_sign_stands_in_every_place(tmp_path: Path) -> None:
    """In captions, headings and cells; at the beginning of a row, where [ and * would belong to the line break before."""
    rows = [[f"{sign}a{sign}", f"x{sign}", Value(0.5)] for sign in SIGNS]
    tables = [Table(f"t{start}", "Signs", [Column("run"), Column("title"), Column("v", ranked=True)], rows[start : start + 30])
              for start in range(0, len(rows), 30)]  # fmt: skip
    for start in range(0, len(SIGNS), 30):
        some = SIGNS[start : start + 30]
        tables.append(
            Table(f"h{start}", " ".join(some), [Column("[x]"), *map(Column, some)], [["*", *some]], " ".join(some))
        )
    said = compiled("\n\n".join(_table.latex(table, intervals=True) for table in tables), tmp_path)
    assert "Missing character" not in said, "a sign that was silently left out"


def test_a_row_that_begins_with_a_bracket_is_whole(tmp_path: Path) -> None:
    table = Table(
        "t", "t", [Column("token"), Column("p")], [["a", Value(0.1)], ["[Pack", Value(-0.2, -0.3, 0.1, True)]]
    )
    text = _table.latex(table, intervals=True)
    assert "{[}Pack & $-$0.2000 ($-$0.3000 to +0.1000) \\\\" in text
    compiled(text, tmp_path)
