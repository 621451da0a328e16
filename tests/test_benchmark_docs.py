"""The tables of docs/benchmarks.md are those of the JSON results."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_comes_from_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    tables = script().tables()
    assert len(tables) >= 15
    for name, table in tables.items():
        assert table.count("\n") >= 2, f"{name}: there are results"
        assert table in page, f"{name}: run benchmarks/tables.py and paste its output"
