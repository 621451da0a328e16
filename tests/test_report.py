"""The report says in every format what metrics.json says, with the right marks, and has no figure without data."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_LM, Finished
from hypothesis import given, settings
from hypothesis import strategies as st

from ilrec_cli import artifacts, cli
from ilrec_cli.metrics import REPORTED
from ilrec_cli.settings import Report
from ilrec_cli.stages import _html, _report_examples, _report_sensitivity, _report_tables, _report_write, _table
from ilrec_cli.stages._page import Content, Section
from ilrec_cli.stages._report_rows import Row
from ilrec_cli.stages._table import Column, Table, Value

Run = Callable[..., Finished]
CARD = {
    "source": "toy",
    "statistics": {"users": 1, "items": 2, "interactions": 3, "training_targets": 4, "sparsity": 0.5},
}


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
    plain = re.sub(r"\\label\{[^}]*\}|\$\\Delta\$|\\.", "", text)
    assert not re.search(r"[%#_^~$]", plain)


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


@pytest.fixture(scope="module")
def reported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder of its own with runs, their variants and their evaluations, and its report in every format."""
    import shutil

    work = tmp_path_factory.mktemp("reported")
    for folder in ("data", "ids/text", "cf/sasrec", "cf/popularity", "runs/sft"):
        shutil.copytree(trained / "toy" / folder, work / "toy" / folder)
    common = ["--dataset", "toy", "--work", str(work), "--quiet"]
    more = {"ilrec": [], "no-crr": ["-o", "mu_crr=0"]}
    for name, flags in more.items():
        cli.invoke(["train", *common, "--method", "ilrec", "--name", name, *TINY_LM, "--probe-layers", "all", *flags])
    cli.invoke(["evaluate", *common, "--run", "sft,ilrec,no-crr,sasrec", "--beams", "20"])
    cli.invoke(["report", *common, "--formats", "html,md,tex,csv,svg"])
    return work / "toy"


def test_every_number_of_a_real_report_is_in_its_metrics_file(reported: Path) -> None:
    lines = list(csv.DictReader((reported / "report" / "results.csv").read_text().splitlines()))
    files = sorted(reported.glob("*/*/eval/[!.]*/metrics.json"))
    expected = set()
    for file in files:
        result = json.loads(file.read_text())
        parts = {"": result} | {
            f"{kind}: {part}": each for kind, found in result["slices"].items() for part, each in found.items()
        }
        for part, each in parts.items():
            expected |= {(file.parents[2].name, part, metric, value) for metric, value in each["metrics"].items()
                         if result["protocol"]["split"] == "test"}  # fmt: skip
    assert {
        (line["run"], line["slice"], line["metric"], float(line["value"]))
        for line in lines
        if line["protocol"].startswith("test")
    } == expected
    page = Cells((reported / "report.html").read_text()).rows
    shown = {cells[0][0]: cells for cells in page if cells and len(cells) == 2 + len(REPORTED)}
    metrics = json.loads(
        (reported / "runs" / "ilrec" / "eval" / "test-full-beam20-vocab" / "metrics.json").read_text()
    )["metrics"]
    assert [cell[0] for cell in shown["ilrec"][2:]] == [f"{metrics[name]:.4f}" for name in REPORTED]
    check_latex((reported / "report" / "tables.tex").read_text())


def test_differences_are_those_of_compare_and_ablations_say_what_changed(reported: Path, ilrec: Run) -> None:
    common = ["--dataset", "toy", "--work", reported.parent]
    found = json.loads(ilrec("compare", "ilrec", "no-crr", *common, "--json").out.splitlines()[-1])["comparisons"]
    text = (reported / "report" / "report.md").read_text()
    section = text[text.index("**Ablations of ilrec: differences from ilrec**") :]
    line = next(line for line in section.splitlines() if "no-crr" in line)
    assert r"mu\_crr=0.0" in line
    for each in found:
        assert "{:+.4f} ({:+.4f} to {:+.4f})".format(each["difference"], *each["interval"]) in line


def test_the_page_has_every_section_and_every_figure_its_file(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    sections = re.findall(r'<section id="([\w-]+)"', page)
    assert {"results-1", "results-1-slices", "examples", "explained", "training", "layers", "negatives", "collaborative",
            "ids", "models"} <= set(sections)  # fmt: skip
    assert "Left out" not in page
    drawn = page.count("<svg ")
    assert drawn == page.count('role="img" aria-label="')
    files = list((reported / "report" / "figures").glob("*.svg"))
    assert len(files) == drawn
    assert all(file.stat().st_size > 1000 for file in files)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "an id twice: figures would use each other's marks"
    text = (reported / "report" / "report.md").read_text()
    assert all((reported / "report" / path).is_file() for path in re.findall(r"\]\((figures/[^)]+)\)", text))
    assert not re.search(r"(src|href)=[\"']https?:|@import|url\(http|<script [^>]*src", page)


def test_the_same_inputs_give_the_same_files(reported: Path, ilrec: Run) -> None:
    before = {path: path.read_bytes() for path in [reported / "report.html", *(reported / "report").glob("*.*")]}
    ilrec("report", "--dataset", "toy", "--work", reported.parent)
    assert {path: path.read_bytes() for path in before if path.suffix != ".md"} == {
        path: text
        for path, text in before.items()
        if path.suffix != ".md"  # which names figures that were not asked for
    }


def test_figures_for_papers_are_black_on_white(tmp_path: Path) -> None:
    figure, (axis,) = _html.figure(rows=1, columns=1, height=2)
    axis.plot([0, 1], [0, 1], color=_html.COLOURS[0], label="run")
    axis.set_title("title")
    for ending, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        for name in ("one", "two"):
            _html.save(figure, tmp_path / f"{name}.{ending}")
        assert (tmp_path / f"one.{ending}").read_bytes().startswith(start)
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
    assert axis.title.get_color() == "black"


def test_examples_are_what_they_say(reported: Path) -> None:
    data = artifacts.read(reported / "data", "data")
    folder = reported / "runs" / "ilrec" / "eval" / "test-full-beam20-vocab"
    result = json.loads((folder / "metrics.json").read_text())
    manifest = artifacts.read_manifest(reported / "runs" / "ilrec" / "train")
    main = Row("ilrec", "ilrec", "ilrec", "", result, folder, folder, manifest)
    titles = dict(zip(data.table("items")["raw_id"].to_pylist(), data.table("items")["title"].to_pylist(), strict=True))
    sequences = dict(
        zip(data.table("users")["raw_id"].to_pylist(), data.table("sequences")["items"].to_pylist(), strict=True)
    )
    raw = data.table("items")["raw_id"].to_pylist()
    listed = {each["user"]: each for each in artifacts.read(folder, "eval").table("rankings").to_pylist()}
    found = _report_examples.examples(data, [main], main)
    assert [each.kind for each in found] == sorted(each.kind for each in found)
    for each in found:
        *history, target = (titles[raw[item]] for item in sequences[each.user])
        assert each.target == target
        assert each.history == history[-_report_examples.HISTORY :]
        assert each.earlier + len(each.history) == len(history)
        items = listed[each.user]["items"]
        assert [one.title for one in each.listed] == [titles[item] for item in items[:5]]
        place = items.index(listed[each.user]["target"]) if listed[each.user]["target"] in items else None
        assert (each.kind == "hit") == (place is not None and place < 5)
        assert each.kind == "hit" or place is None or place >= 10
        assert each.ranks == [("ilrec", "beyond 20" if place is None else str(place + 1))]


def test_what_there_is_no_data_for_is_left_out_with_a_reason(trained: Path, tmp_path: Path, ilrec: Run) -> None:
    import shutil

    for folder in ("data", "cf/popularity"):
        shutil.copytree(trained / "toy" / folder, tmp_path / "toy" / folder)
    result = ilrec("report", "--dataset", "toy", "--work", tmp_path)
    assert result.code == 0, result.err
    page = (tmp_path / "toy" / "report.html").read_text()
    left = page[page.index("Left out") :]
    for reason in ("no run logged its layers", "no run has negatives", "no run has a log", "none are made from these data",
                   "no evaluated run has negatives", "no log and no cost.json"):  # fmt: skip
        assert reason in left
    assert '<a href="#explained"' not in page


def test_watch_writes_again_when_something_changed_and_says_so(
    reported: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ilrec_cli.stages import report

    log = reported / "runs" / "growing" / "train" / "log.jsonl"
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # figures are not the point, and take time
    looks: list[int] = []

    def sleep(seconds: float) -> None:
        looks.append(len(list(reported.glob("report.html"))))
        if len(looks) == 2:  # a training begins
            log.parent.mkdir(parents=True)
            (log.parent / "config.yaml").write_text("method: sft\n")
            log.write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n")
        if len(looks) == 4:
            log.write_text(log.read_text() + json.dumps({"step": 2, "loss": 1.0}) + "\n")
        if len(looks) == 6:
            monkeypatch.setattr(report.time, "monotonic", lambda: 1e9)

    monkeypatch.setattr(report.time, "sleep", sleep)
    result = ilrec(
        "report",
        "--dataset",
        "toy",
        "--work",
        reported.parent,
        "--watch",
        "--stop-after",
        "600",
        "--explain",
        "off",
        "--json",
    )
    assert json.loads(result.out.splitlines()[-1])["refreshed"] == 3
    assert len([line for line in result.out.splitlines() if "evaluated models" in line]) == 3
    assert '<meta http-equiv="refresh"' in (reported / "report.html").read_text()


def test_a_search_for_few_items_has_gaps_and_is_not_compared(trained: Path, tmp_path: Path, ilrec: Run) -> None:
    import shutil

    for folder in ("data", "ids/text", "cf/popularity", "runs/sft"):
        shutil.copytree(trained / "toy" / folder, tmp_path / "toy" / folder)
    shutil.rmtree(tmp_path / "toy" / "runs" / "sft" / "eval", ignore_errors=True)
    common = ["--dataset", "toy", "--work", str(tmp_path)]
    cli.invoke(["evaluate", *common, "--quiet", "--run", "sft,popularity", "--beams", "5"])
    result = ilrec("report", *common)
    assert result.code == 0, result.err
    shown = {cells[0][0]: [cell[0] for cell in cells[2:]] for cells in Cells((tmp_path / "toy" / "report.html").read_text()).rows
             if cells and len(cells) == 2 + len(REPORTED)}  # fmt: skip
    metrics = json.loads(
        (tmp_path / "toy" / "runs" / "sft" / "eval" / "test-full-beam5-vocab" / "metrics.json").read_text()
    )["metrics"]
    assert "hit@10" not in metrics
    assert shown["sft"] == [f"{metrics[name]:.4f}" if name in metrics else "-" for name in REPORTED]
    assert "Is it real" not in (tmp_path / "toy" / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--formats", "html,docx"], "expected some of html, md"),
        (["--base", "nobody"], "--base nobody: no evaluated run of that name"),
        (["--every", "0"], "every is 0"),
    ],
)
def test_mistakes_cost_one_line(flags: list[str], message: str, reported: Path, ilrec: Run) -> None:
    assert message in ilrec("report", "--dataset", "toy", "--work", reported.parent, *flags).one_line()


def test_marks_of_a_column_with_gaps() -> None:
    table = Table(
        "t", "t", [Column("a"), Column("b", ranked=True)], [["x", None], ["y", 0.1], ["z", 0.10001], ["w", 0.05]]
    )
    assert [cells[1].mark for cells in table.cells()] == ["", "best", "best", "second"]
    assert table.numeric() == [False, True]
    assert _table.markdown(table).splitlines()[2] == "| x | - |"


def run(name: str, metric: float, seed: int = 0, **options: Any) -> Row:
    found = row(name, {"ndcg@10": metric}, {"ndcg@10": [metric - 0.01, metric + 0.02]})
    config = {"method": "ilrec", "epochs": 3, "options": {"alpha": 0.8, "beta": 0.1, "layers": "auto", **options}}
    return replace(found, manifest={"kind": "run", "seed": seed, "config": config, "parents": {"data": "d"}})


def test_curves_are_of_runs_that_differ_in_one_setting_alone() -> None:
    rows = [run("b", 0.3, layers="consecutive:2"), run("a", 0.2, layers="consecutive:1"), run("c", 0.5, layers="consecutive:10"),
            run("c1", 0.7, seed=1, layers="consecutive:10"), run("other", 0.9, layers="consecutive:4", beta=0.2)]  # fmt: skip
    (curve,) = _report_sensitivity.curves(rows)
    assert curve.setting == "layers"
    assert curve.points == [
        ("consecutive:1", 0.2, 0.19, pytest.approx(0.22)), ("consecutive:2", 0.3, 0.29, pytest.approx(0.32)),
        ("consecutive:10", 0.6, 0.5, 0.7)]  # fmt: skip
    assert _report_sensitivity.planes(rows) == []
    (drawing,) = _report_sensitivity.draw("s", rows)
    assert drawing.description == "NDCG@10 by layers"


def test_a_heat_map_needs_every_combination() -> None:
    rows = [
        run(f"{alpha}-{beta}", alpha + beta, alpha=alpha, beta=beta) for alpha in (0.1, 0.2, 0.3) for beta in (0.4, 0.5)
    ]
    (plane,) = _report_sensitivity.planes(rows)
    assert plane.settings == ("alpha", "beta")
    assert plane.values == {(alpha, beta): alpha + beta for alpha in (0.1, 0.2, 0.3) for beta in (0.4, 0.5)}
    (drawing,) = _report_sensitivity.draw("s", rows)
    assert drawing.description == "NDCG@10 by alpha and beta", "its curves would say the same again"
    assert _report_sensitivity.planes(rows[1:]) == []


def test_costs_are_those_on_record(tmp_path: Path) -> None:
    phase = {"epochs": 2, "steps": 20, "seconds": 61.23, "generated": 640, "prompt_tokens": 12_345}
    recorded = {"before": [phase], "phases": [phase], "total": {key: 2 * value for key, value in phase.items()}}
    (tmp_path / "cost.json").write_text(json.dumps(recorded))
    with_cost, without = replace(run("spin", 0.1), train=tmp_path), run("plain", 0.1)
    table = _report_tables.costs([with_cost, without])
    assert table is not None
    assert [column.title for column in table.columns] == [
        "run",
        "made by",
        "seconds",
        "epochs",
        "steps",
        "generated",
        "phases",
        "prompt tokens",
    ]
    assert table.rows == [["spin", "sft", 122, 4, 40, 1280, 2, 24690]]
    assert _report_tables.costs([without]) is None
