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
    table = script().tables()[name]
    assert table.count("\n") >= 2, "there are results"
    assert table in (ROOT / "docs" / "benchmarks.md").read_text(), "run benchmarks/tables.py and paste its output"
