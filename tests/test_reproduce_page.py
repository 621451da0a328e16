"""What `reproduce` shows: the cells' numbers beside the paper's, what differs, figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from reproducing import Shop, grid, read, settings

from ilrec_cli.stages import _cells, _grid, _html, _repro_figures, _reproduced, reproduce


def _leaves(node: Any, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    if isinstance(node, dict):
        return {key: each for name in node for key, each in _leaves(node[name], (*path, name)).items()}
    if isinstance(node, list):
        return {(*path, place): each for place, each in enumerate(node)}
    return {path: node}


@pytest.mark.parametrize("name", [name for name in _grid.names() if name.startswith("table")])
def test_every_figure_of_the_paper_stands_beside_one_cell(name: str, tmp_path: Path) -> None:
    """At the paper's scale: all that tables.json prints of a table is reached, each by one row, and nothing else is."""
    table = grid(name, settings(tmp_path, name, scale="paper"))
    reached: list[float] = []
    for cell in table.cells:
        reached += [value for value in _reproduced.published(table, cell).values() if not isinstance(value, str)]
    printed = [value for value in _leaves(_grid.published()[name]["rows"]).values() if not isinstance(value, str)]
    assert sorted(reached) == sorted(printed)


@pytest.mark.realdata
def test_the_paper_is_carried_over_as_it_is() -> None:
    shared = Path(os.environ.get("ILREC_SHARED_DATA", "")).parent / "paper" / "tables.json"
    if not shared.is_file():
        pytest.skip("the paper's tables are not here")
    found = _grid.published()
    assert "2602.17410" in found.pop("source")
    assert found == json.loads(shared.read_text())


def _printed(page: str) -> list[float]:
    """Every first number of a cell of the page's tables that is ours."""
    found = []
    for line in page.splitlines():
        if line.startswith("|") and "---" not in line and not line.startswith("|  |"):
            found += [float(text.split()[0]) for text in line.strip("| ").split(" | ")[1:] if "[" in text]
    return found


def test_numbers_on_the_page_are_those_of_the_cells(tmp_path: Path) -> None:
    shop = Shop()
    reproduce.run(settings(tmp_path, "table3"), shop)
    folder = tmp_path / "reproduce" / "table3-tiny"
    cells = [json.loads(path.read_text()) for path in (folder / "cells").iterdir()]
    wanted = sorted(round(cell["metrics"][name], 4) for cell in cells for name in ("hit@10", "ndcg@10"))
    page = (folder / "report.md").read_text()
    assert sorted(_printed(page)) == pytest.approx(wanted)
    assert "0.1143" in page  # the paper's ILRec under LC-Rec on Instrument
    assert "not comparable" in page


def test_seeds_are_a_mean_with_a_deviation(tmp_path: Path) -> None:
    import numpy as np

    shop = Shop()
    reproduce.run(settings(tmp_path, "table3", rows=("SFT",), seeds=(0, 1, 2)), shop)
    folder = tmp_path / "reproduce" / "table3-tiny"
    rows = [each for each in read(folder / "results.json")["rows"] if each["row"] == "SFT"]
    (row,) = [each for each in rows if each["paradigm"] == "LC-Rec"]
    values = [cell["metrics"]["hit@10"] for cell in map(read, (folder / "cells").glob("lc-rec*"))]
    assert row["figures"]["hit@10"]["ours"] == pytest.approx(np.mean(values))
    assert row["figures"]["hit@10"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in (folder / "report.md").read_text()


def test_seeds_are_named_as_they_were(tmp_path: Path) -> None:
    reproduce.run(settings(tmp_path, "table3", rows=("SFT",), seeds=(0, 5)), Shop())
    page = (tmp_path / "reproduce" / "table3-tiny" / "report.md").read_text()
    assert "- Seeds of the language models: 0, 5.\n" in page
    assert "pretraining; one seed" not in page


def test_bigrec_without_titles_runs_on_other_data_or_says_why(tmp_path: Path) -> None:
    shop = Shop(titles=False)
    config = settings(tmp_path, "table3", rows=("SFT",), dataset="Instruments")
    reproduce.run(config, shop)
    folder = tmp_path / "reproduce" / "table3-tiny-instruments"
    reasons = read(folder / "results.json")["cannot_be"]
    assert len(reasons) == 9
    assert all(label.startswith("BIGRec") and "has no titles" in why for label, why in reasons.items())
    assert "cannot be" in (folder / "report.md").read_text()
    shop.titles = True
    shop(["preprocess", "--dataset", "Industrial_and_Scientific", "--work", str(tmp_path)])
    reproduce.run(config, shop)
    page = (folder / "report.md").read_text()
    assert "## BIGRec, Industrial_and_Scientific" in page
    assert "Industrial_and_Scientific stands where the paper has Instrument" in page


def test_costs_curves_and_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shop = Shop()
    reproduce.run(settings(tmp_path, "table5", "figure2", "figure5"), shop)
    page = (tmp_path / "reproduce" / "table5-tiny" / "report.md").read_text()
    assert "| ILRec | 2.00 | 4.20 | 1.00 | 1.00 | 5 | 5 | 1 | 0 | 30 |" in page
    assert "| S-DPO | 2.00 | 7.25 | 1.00 | 0.58 | 5 | 8(5 + 3) | 1 | 1 |" in page
    for name in ("figure2", "figure5"):
        folder = tmp_path / "reproduce" / f"{name}-tiny"
        assert (folder / f"{name}.png").stat().st_size > 5_000
        assert (folder / f"{name}.pdf").is_file()
        assert "published" not in (folder / "report.md").read_text().split("How to read it")[0]
        assert "ours stand alone" in (folder / "report.md").read_text()
    (cell,) = (tmp_path / "reproduce" / "figure2-tiny" / "cells").glob("*sft*")
    assert read(cell)["curves"] == {"1": [[1, 3.0], [2, 1.5]], "2": [[1, 2.0], [2, 1.0]]}


@pytest.mark.parametrize(
    ("made", "sampled"),
    [
        ([(0.0, 0)], 0),  # fine-tuning
        ([(0.0, 0), (9.0, 0)], 1),  # S-DPO: drawn, and scored under the reference
        ([(0.0, 0), (9.0, 50)], 1),  # RosePO: searched
        ([(0.0, 0), *[(9.0, 50), (3.0, 0)] * 3], 3),  # SPRec: a phase generates, the next scores what it generated
    ],
)
def test_sampling_is_counted_when_negatives_are_made(
    tmp_path: Path, made: list[tuple[float, int]], sampled: int
) -> None:
    rows = [{"making_seconds": seconds, "generated": count} for seconds, count in made]
    total = {"seconds": 3600, "epochs": 5, "generated": 0}
    (tmp_path / "cost.json").write_text(json.dumps({"before": rows[:1], "phases": rows[1:], "total": total}))
    assert _cells._cost(tmp_path)["sampling"] == sampled


def test_bars_have_their_intervals_and_every_layer_a_colour_of_its_own() -> None:
    pytest.importorskip("matplotlib")
    single = {"ours": 0.2, "deviation": None, "interval": [0.1, 0.3]}
    several = {"ours": 0.2, "deviation": 0.05, "interval": None}
    assert _repro_figures._ends(single) == [0.1, 0.3]
    assert _repro_figures._ends(several) == pytest.approx([0.15, 0.25])
    assert len(set(_html.shades(32).values())) == 32


def test_other_rows_stay_on_the_page(tmp_path: Path) -> None:
    shop = Shop()
    reproduce.run(settings(tmp_path, "table4"), shop)
    page = tmp_path / "reproduce" / "table4-tiny" / "report.md"
    before = page.read_text()
    shop.asked.clear()
    reproduce.run(settings(tmp_path, "table4", rows=("BPR",)), shop)
    assert page.read_text() == before
    assert not shop.asked
