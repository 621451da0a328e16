"""A table once, written as Markdown, LaTeX (booktabs) or, through its cells, HTML: the same numbers with the same marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

DIGITS = 4
MISSING = (
    "\N{LATIN CAPITAL LETTER ETH}\N{LATIN SMALL LETTER ETH}\N{LATIN CAPITAL LETTER THORN}\N{LATIN SMALL LETTER THORN}"
)
KNOWN = "".join(sign for sign in map(chr, range(0x100)) if sign.isprintable() and sign not in MISSING)  # of Latin-1
DASH = "\N{EN DASH}"
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", DASH: "--", "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$", "\N{MINUS SIGN}": "$-$",
    "[": "{[}", "]": "{]}", "*": "{*}",  # at the beginning of a row they would go with the line break before it
    "\N{NO-BREAK SPACE}": "~", "\N{SOFT HYPHEN}": r"\-", "\xab": r"$\ll$", "\xbb": r"$\gg$",
})  # fmt: skip


class Value(NamedTuple):
    """A number with the interval it is known by, if it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    signed: bool = False


class Column(NamedTuple):
    """A heading; of a `ranked` column the largest number is best, the next second; a `heat` column's are shares of one."""

    title: str
    ranked: bool = False
    heat: bool = False


class Cell(NamedTuple):
    """What a reader sees of a cell, and what a program sorts by."""

    text: str
    interval: str = ""
    mark: str = ""  # best, second
    key: float | str = ""
    number: bool = False


class Table(NamedTuple):
    """Rows of texts, whole numbers, `Value`s and gaps (None) under columns; `name` becomes a label and a file's name."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    open: bool = True  # whether a page shows it unasked

    def cells(self) -> list[list[Cell]]:
        """Every cell as it is shown, with its mark."""
        marks = [
            _marks([row[place] for row in self.rows]) if column.ranked else {}
            for place, column in enumerate(self.columns)
        ]
        return [
            [_cell(value, marks[place].get(_shown(value), "")) for place, value in enumerate(row)] for row in self.rows
        ]

    def numeric(self) -> list[bool]:
        """Which columns hold numbers alone (and gaps)."""
        rows = self.cells()
        return [
            any(row[place].number for row in rows) and all(row[place].number or row[place].text == "-" for row in rows)
            for place in range(len(self.columns))
        ]


def markdown(table: Table, *, intervals: bool = False) -> str:
    """A table of GitHub's Markdown: best in bold, second in italics."""
    numeric = table.numeric()
    lines = [[plain(column.title) for column in table.columns], ["---:" if right else "---" for right in numeric]]
    lines += [[_marked(cell, "**{}**", "*{}*", plain, intervals) for cell in row] for row in table.cells()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(table: Table, *, intervals: bool = False) -> str:
    """A table environment that needs the package booktabs alone: best in bold, second underlined."""
    shape = "".join("r" if right else "l" for right in table.numeric())
    head = [tex(column.title) for column in table.columns]
    body = [
        [
            _marked(cell, r"\textbf{{{}}}", r"\underline{{{}}}", _tex_number if cell.number else tex, intervals)
            for cell in row
        ]
        for row in table.cells()
    ]
    rows = [" & ".join(row) + r" \\" for row in body]
    caption = tex(f"{table.title}. {table.note}".strip())
    return "\n".join([
        r"\begin{table}[t]", r"\centering", rf"\caption{{{caption}}}", rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{shape}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule", *rows, r"\bottomrule",
        r"\end{tabular}", r"\end{table}",
    ])  # fmt: skip


def tex(text: str) -> str:
    """Text as LaTeX prints it; signs that its usual fonts lack by their number."""
    return "".join(sign if sign in KNOWN else f"U+{ord(sign):04X}" for sign in text.translate(LATEX))


def _tex_number(text: str) -> str:
    """A number with a minus sign, not a hyphen."""
    return tex(text.replace("-", "\N{MINUS SIGN}"))


def plain(text: str) -> str:
    """Text that stays in its cell, and is no Markdown: no formula, no struck out text, no entity either."""
    for sign in "\\|*_<>`[]~$&#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _marked(cell: Cell, best: str, second: str, escape: Any, intervals: bool) -> str:
    shape = {"best": best, "second": second}.get(cell.mark, "{}")
    text = shape.format(escape(cell.text))
    return f"{text} ({escape(cell.interval)})" if intervals and cell.interval else text


def _cell(value: Any, mark: str) -> Cell:
    number = isinstance(value, Value | int | float) and not isinstance(value, bool)
    if isinstance(value, Value):
        between = " to " if value.signed else DASH
        ends = [_figure(end, value.signed) for end in (value.low, value.high) if end is not None]
        return Cell(_shown(value), between.join(ends), mark, value.value, True)
    return Cell(_shown(value), "", mark, value if number else _shown(value), number)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Value):
        return _figure(value.value, value.signed)
    if isinstance(value, float):
        return _figure(value, False)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figure(value: float, signed: bool) -> str:
    return f"{value:+.{DIGITS}f}" if signed else f"{value:.{DIGITS}f}"


def _marks(column: Sequence[Any]) -> dict[str, str]:
    """What is printed -> best or second; numbers that are printed alike are marked alike, a lone one is not marked."""
    found = {_shown(value): round(value.value if isinstance(value, Value) else value, DIGITS) for value in column
             if isinstance(value, Value | int | float)}  # fmt: skip
    if sum(isinstance(value, Value | int | float) for value in column) < 2:
        return {}
    ordered = sorted(found, key=lambda text: -found[text])
    return dict(zip(ordered, ("best", "second"), strict=False))
