"""Rows of a report that no model stands behind, and readers of its formats."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ilrec_cli.stages._report_rows import Row


class Cells(HTMLParser):
    """Every row of every table of a page: [(text without the interval, interval, class)]."""

    def __init__(self, page: str):
        super().__init__()
        self.rows: list[list[list[str]]] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append(["", "", dict(attrs).get("class") or ""])
        self.inside = tag if tag in ("td", "small", "span") else ""

    def handle_data(self, data: str) -> None:
        if self.inside and self.rows[-1]:
            self.rows[-1][-1][1 if self.inside == "small" else 0] += data.strip()


def row(name: str, metrics: dict[str, float], intervals: dict[str, list[float]]) -> Row:
    result = {"metrics": metrics, "intervals": intervals, "slices": {}, "events": 7}
    manifest = {"kind": "run", "seed": 0}
    return Row(name, name, "sft", "beam 20, vocab", result, Path(), Path(), manifest)


def run(name: str, metric: float, seed: int = 0, **options: Any) -> Row:
    found = row(name, {"ndcg@10": metric}, {"ndcg@10": [metric - 0.01, metric + 0.02]})
    config = {"method": "ilrec", "epochs": 3, "options": {"alpha": 0.8, "beta": 0.1, "layers": "auto", **options}}
    return replace(found, manifest={"kind": "run", "seed": seed, "config": config, "parents": {"data": "d"}})


def check_latex(text: str) -> None:
    """What pdflatex would stop at: environments, braces, columns, and signs that mean something to TeX."""
    text = re.sub(r"(?m)^%.*$", "", text)
    depth = 0
    for sign in re.sub(r"\\[\\{}]", "", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    for shape, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in (line for line in body.splitlines() if line.endswith(r"\\")):
            assert len(re.findall(r"(?<!\\)&", line)) == len(shape) - 1
        assert re.findall(r"\\(toprule|midrule|bottomrule)", body) == ["toprule", "midrule", "bottomrule"]
    assert all(ord(sign) < 0x100 for sign in text), "a sign that pdflatex's fonts may lack"
    plain = re.sub(r"\\label\{[^}]*\}|\$(\\Delta|-|\\ll|\\gg)\$|\\.", "", text)
    assert not re.search(r"[%#_^~$]", plain)


def compiled(tables: str, folder: Path) -> str:
    """What pdflatex said; fails where it stopped."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex (apt-get install texlive-latex-base texlive-latex-recommended)")
    text = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n" + tables + "\n\\end{document}\n"
    (folder / "paper.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said[-2000:]
    assert (folder / "paper.pdf").read_bytes().startswith(b"%PDF")
    return said
