"""The report's figures and tables of runs that no model stands behind: what a setting does, what a training took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reporting import run

from ilrec_cli.stages import _html, _report_sensitivity, _report_tables
from ilrec_cli.stages._report_rows import Row


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


def test_curves_say_whose_they_are() -> None:
    """Two methods over one setting, and one method at two values of another, are told apart in one panel."""

    def of(method: str, layers: int, metric: float, **options: Any) -> Row:
        found = run(f"{method}{layers}{options}", metric, layers=f"consecutive:{layers}", **options)
        return replace(
            found, kind=method, manifest={**found.manifest, "config": {**found.manifest["config"], "method": method}}
        )

    rows = [of("ilrec", k, k / 10) for k in (1, 2, 3)] + [of("other", k, k / 9, gamma=1) for k in (1, 2, 3)]
    rows += [of("ilrec", k, k / 8, beta=0.2, epochs_more=1) for k in (1, 2, 4)]
    found = {curve.of: [point[0] for point in curve.points] for curve in _report_sensitivity.curves(rows)}
    assert found.keys() == {"ilrec, beta=0.1", "ilrec, beta=0.2, epochs_more=1", "other"}
    (drawing,) = _report_sensitivity.draw("s", rows)
    (axis,) = [axis for axis in drawing.figure.axes if axis.get_visible()]
    assert [label.get_text() for label in axis.get_xticklabels()] == [f"consecutive:{k}" for k in (1, 2, 3, 4)]
    assert {line.get_label() for line in axis.lines if not line.get_label().startswith("_")} == found.keys()


def test_two_backbones_are_shown_beside_each_other() -> None:
    """Figure 4: SFT and ILRec on two backbones; nothing lies between two backbones, so no line does."""
    rows = []
    for method in ("sft", "ilrec"):
        for backbone in ("tiny-llama", "tiny-qwen2"):
            found = run(f"{method}-{backbone}", 0.1 + len(rows) / 100)
            config = {"method": method, "backbone": backbone, "options": {"alpha": 0.8} if method == "ilrec" else {}}
            rows.append(replace(found, kind=method, manifest={**found.manifest, "config": config}))
    assert [(curve.setting, curve.of, len(curve.points)) for curve in _report_sensitivity.curves(rows)] == [
        ("backbone", "ilrec", 2), ("backbone", "sft", 2)]  # fmt: skip
    (drawing,) = _report_sensitivity.draw("s", rows)
    lines = [line for axis in drawing.figure.axes for line in axis.lines if not line.get_label().startswith("_")]
    assert {line.get_linestyle() for line in lines} == {"None"}


def test_a_heat_map_needs_every_combination() -> None:
    rows = [
        run(f"{alpha}-{beta}", alpha + beta, alpha=alpha, beta=beta) for alpha in (0.1, 0.2, 0.3) for beta in (0.4, 0.5)
    ]
    (plane,) = _report_sensitivity.planes(rows)
    assert plane.settings == ("alpha", "beta")
    assert plane.values == {(alpha, beta): alpha + beta for alpha in (0.1, 0.2, 0.3) for beta in (0.4, 0.5)}
    (drawing,) = _report_sensitivity.draw("s", rows)
    assert drawing.description == "NDCG@10 by alpha and beta", "its curves would say the same again"
    assert _report_sensitivity.planes(rows[2:4] + rows[:1]) == []
    (plane,) = _report_sensitivity.planes(rows[1:])
    assert {key[0] for key in plane.values} == {0.2, 0.3}, "the value that lacks a combination is left out"
    (plane,) = _report_sensitivity.planes([*rows, run("default", 0.9, alpha=0.8, beta=0.1)])
    assert len(plane.values) == 6, "a run with other values of both does not undo the grid"


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
