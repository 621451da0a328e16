"""The tables of docs/benchmarks.md are those of the JSON results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    [
        "instruments",
        "collaborative",
        "decode",
        "decode_growth",
        "train_step",
        "demo",
        "preprocess",
        "growth",
        "ids",
        "ids_purity",
        "ids_scale",
        "startup",
        "lora_rows",
        "serve",
        "plan_memory",
    ],
)
def test_every_figure_comes_from_the_results(name: str) -> None:
    assert_on_the_page(script().tables()[name])


@pytest.mark.parametrize(("name", "file"), [("peer", "sasrec-vs-recbole"), ("million", "cf-million")])
def test_what_is_recorded_later_is_on_the_page_once_it_is_there(name: str, file: str) -> None:
    if (ROOT / "benchmarks" / "results" / f"{file}.json").exists():
        assert_on_the_page(script().tables()[name])
    else:
        assert name not in script().tables()
        assert f"<!-- {name} -->\n\nNot recorded yet." in PAGE.read_text()


def test_tables_of_later_records_show_their_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the scripts write them: a column per side, ratios of seconds, the loss at both ends."""
    tables = script()
    side = {"epochs_to_level": 9, "seconds_to_level": 900.0, "epoch_seconds": 90.0, "ranking_seconds": 3.5, "curve": []}
    ours = {**side, "epochs_to_level": 4, "seconds_to_level": 60.0, "epoch_seconds": 12.0, "ranking_seconds": 0.7}
    (tmp_path / "sasrec-vs-recbole.json").write_text(json.dumps({"level": 0.0612, "recbole": side, "ilrec": ours}))
    cell = {"steps": 250, "first": 13.8, "loss": 7.25, "test": {"hit@10": 0.4}, "seconds_per_step": 0.3,
            "ranking_seconds": 1.5, "peak_gib": 2.8}  # fmt: skip
    million = {"popularity": {"test": {"hit@10": 0.0005}}, "sampled": cell, "gbce": cell}
    (tmp_path / "cf-million.json").write_text(json.dumps(million))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "| to validation NDCG@10 0.0612 | 900.0 s | 60.0 s | 15.0 |\n| epochs to it | 9 | 4 |  |" in tables.peer()
    assert "| popularity | - | - | - | 0.0005 | - | - | - |" in tables.million()
    row = "| SASRec, `loss=gbce` | 250 | 13.80 | 7.25 | 0.4000 | 0.30 s | 1.5 s | 2.80 GiB |"
    assert row in tables.million()


def assert_on_the_page(table: str) -> None:
    assert table.count("\n") >= 2, "there are results"
    assert table in PAGE.read_text(), "run benchmarks/tables.py and paste its output"
