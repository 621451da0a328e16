"""The tables of docs/benchmarks.md are those of the JSON results."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilrec_cli import artifacts
from ilrec_cli.config import build, to_yaml
from ilrec_cli.lm import backbone
from ilrec_cli.settings import Train
from ilrec_cli.stages import _backbones

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


def test_the_table_of_a_million_items_shows_what_its_script_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = script()
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    cell = {"steps": 250, "first": 13.8, "loss": 7.25, "test": {"hit@10": 0.4}, "seconds_per_step": 0.3,
            "ranking_seconds": 1.5, "peak_gib": 2.8}  # fmt: skip
    result = {"popularity": {"test": {"hit@10": 0.0005}}, "sampled": cell, "gbce": cell}
    (tmp_path / "cf-million.json").write_text(json.dumps(result))
    assert "| popularity | - | - | - | 0.0005 | - | - | - |" in tables.million()
    row = "| SASRec, `loss=gbce` | 250 | 13.80 | 7.25 | 0.4000 | 0.30 s | 1.5 s | 2.80 GiB |"
    assert row in tables.million()


def test_sweeps_are_compared_with_sft_of_their_own_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made ranks: SFT finds every fourth target first, ILRec at depth 4 every second, at depth 8 what SFT finds there."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    plots = importlib.import_module("ilrec_plots")
    tables = importlib.import_module("ilrec_tables")
    rare, often = np.where(np.arange(400) % 4, -1, 0), np.where(np.arange(400) % 2, -1, 0)
    sweeps = [_cell("sft-depth", "4", rare), _cell("ilrec-depth", "4", often), _cell("sft-depth", "8", often),
              _cell("ilrec-depth", "8", often), _cell("beta", "0.5", rare), _cell("beta", "0.01", often),
              _cell("sft-logits", "2", often), _cell("ilrec-logits", "2", rare)]  # fmt: skip
    gaps = {(cell["sweep"], cell["value"]): tables.sweep_gap(cell, sweeps) for cell in sweeps}
    assert gaps["sft-depth", "8"] is None
    assert gaps["ilrec-depth", "4"].mean_C.tolist() == pytest.approx([0.25, 0.25])
    assert gaps["ilrec-depth", "8"].mean_C.tolist() == [0, 0]
    assert gaps["sft-logits", "2"] is None
    assert gaps["ilrec-logits", "2"].mean_C.tolist() == pytest.approx([-0.25, -0.25])
    monkeypatch.setattr(plots, "own_value", {"beta": "0.1"}.get)
    more = [*sweeps, {**_cell("sft-depth", "4", often), "seed": 1}, {**_cell("ilrec-depth", "4", often), "seed": 1}]
    points = plots.series("beta", more)
    assert [point[:2] for point in points] == [
        ("0.01", "changed"),
        ("0.1", "own"),
        ("0.1", "seeds"),
        ("0.5", "changed"),
    ]
    assert [point[2] for point in points] == pytest.approx([0.25, 0.25, 0, 0])
    assert min(points[0][3:]) > 0.02


def test_cells_of_the_record_are_the_commands_that_were_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the script would run for every recorded cell is what its file says was run, with the same options."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script, common = importlib.import_module("record_ilrec"), ["--dataset", "Instruments", "--work", "anywhere"]
    monkeypatch.setattr(script, "ilrec", lambda *_: {"path": "", "trained": True})
    checked = 0
    for text in script.CELLS:
        cell = script.parse(text)
        path = script.RESULTS / f"ilrec-{cell.name}.json"
        if path.exists():
            recorded = json.loads(path.read_text())
            made = script.trained(cell.name, cell.options, cell.about["seed"], cell.epochs, common, flags=cell.flags)
            assert (made["command"], made["options"]) == (recorded["command"], recorded["options"]), text
            assert {key: recorded[key] for key in cell.about} == cell.about
            checked += 1
    assert checked >= 20


def test_rows_are_compared_seed_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made figures: differences of 0.05 and 0.1, whose t interval of one degree of freedom is 12.706 x 0.025."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("ilrec_tables")
    rare, often = np.where(np.arange(400) % 4, -1, 0), np.where(np.arange(400) % 2, -1, 0)
    cells = {
        name: [{**_cell("", "", rank_E), "seed": seed, "test": {"ndcg@10": value}} for seed, value in figures]
        for name, rank_E, figures in (
            ("sft", rare, [(0, 0.1), (1, 0.2), (2, 0.9)]), ("ilrec", often, [(1, 0.3), (0, 0.15)]), ("other", rare, [(1, 0.2)]),
        )
    }  # fmt: skip
    row = tables._seed_row("ILRec", cells["ilrec"], cells["sft"], cells["ilrec"])
    assert row == ["ILRec", "+0.1000, +0.0500", "+0.0750 ± 0.3177", "-"]
    other = tables._seed_row("other", cells["other"], cells["sft"], cells["ilrec"])
    assert other[:3] == ["other", "+0.0000", "+0.0000"]
    assert other[3].startswith("-0.2500 [-0.")


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_scaled_logits_are_those_of_the_same_weights(
    scale: float, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    settings = tmp_path / "small.yaml"
    values = {
        "dataset": "toy",
        "backbone": "tiny-llama",
        "hidden_size": 16,
        "n_layers": 2,
        "n_heads": 2,
        "inner_size": 32,
    }
    settings.write_text(to_yaml(values))
    made = importlib.import_module("_scaled_logits").make
    made(tmp_path / "base", scale, settings, 3, world / "toy" / "data")
    plain = _backbones.open_backbone(
        build(Train, {**values, "seed": 3}, "test"), artifacts.read(world / "toy" / "data", "data")
    )
    scaled = backbone.load(str(tmp_path / "base"), torch.float32)
    token_BS = torch.arange(40).view(2, 20)
    assert torch.equal(scaled.model(token_BS).logits, scale * plain.model(token_BS).logits)
    assert scaled.tokenizer.get_vocab() == plain.tokenizer.get_vocab()


def _cell(sweep: str, value: str, rank_E: np.ndarray) -> dict[str, Any]:
    ranks = base64.b64encode(zlib.compress(rank_E.astype(np.int8).tobytes())).decode()
    return {"sweep": sweep, "value": value, "seed": 0, "ranks": ranks}
