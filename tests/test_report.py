"""A real report: its numbers are those on the disk, it has every section, what it cannot have it says."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_LM, Finished
from reporting import Cells, check_latex, compiled

from ilrec_cli import artifacts, cli
from ilrec_cli.metrics import REPORTED
from ilrec_cli.settings import Report
from ilrec_cli.stages import _report_examples
from ilrec_cli.stages._page import Maker
from ilrec_cli.stages._report_rows import Row

Run = Callable[..., Finished]


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


def test_the_latex_of_a_real_report_compiles(reported: Path, tmp_path: Path) -> None:
    compiled((reported / "report" / "tables.tex").read_text(), tmp_path)


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


def test_sections_of_several_protocols_have_names_of_their_own(reported: Path) -> None:
    titles = [
        "test split, 1,225 events, full catalogue",
        "test split, 400 events, 400 users, full catalogue",
        "valid split, 9 events, x",
    ]
    data, config = artifacts.read(reported / "data", "data"), Report(dataset="toy", work=reported.parent)
    maker = Maker(config, data, {title: [] for title in titles}, lambda base, others: [], figures=False)
    assert [maker._short(title) for title in titles] == [
        "test split, 1,225 events",
        "test split, 400 events",
        "valid split",
    ]


def test_the_same_inputs_give_the_same_files(reported: Path, ilrec: Run) -> None:
    before = {path: path.read_bytes() for path in [reported / "report.html", *(reported / "report").glob("*.*")]}
    ilrec("report", "--dataset", "toy", "--work", reported.parent)
    assert {path: path.read_bytes() for path in before if path.suffix != ".md"} == {
        path: text
        for path, text in before.items()
        if path.suffix != ".md"  # which names figures that were not asked for
    }


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


def test_nothing_to_write_is_said(reported: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = ilrec(
        "report", "--dataset", "toy", "--work", reported.parent, "--formats", "png", "--explain", "off"
    ).one_line()
    assert "there is no figure to write" in line
    assert "ilrec[plots]" in line
