"""What ships for a data set: valid, the winner of its recorded search, and how that record is written."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from conftest import instruments_folder

from ilrec_cli import cli, plugins, presets
from ilrec_cli import config as configs
from ilrec_cli.json_log import read_log
from ilrec_cli.settings import TrainCf
from ilrec_cli.stages import _cf, _search, tune_cf

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BUDGET = {"epochs", "patience"}  # of a trial, not of a preset


def shipped(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, options) of a model on Instruments: its preset if there is one, else the defaults."""
    preset = {"preset": "instruments"} if "instruments" in plugins.load("cf", name).PRESETS else {}
    given = presets.under(TrainCf, {"dataset": "Instruments", "model": name, **preset})
    config = configs.build(TrainCf, given, name)
    return {key: getattr(config, key) for key in tune_cf.TUNABLE if key not in BUDGET}, _cf.options(
        name, config.options
    )


def assert_ships_the_winner(name: str, rows: list[dict[str, Any]]) -> None:
    won = _search.best_first(rows)[0]
    identity, (settings, options) = won["identity"], shipped(name)
    assert "failed" not in won
    assert (identity["dataset"], identity["limit_users"], identity["max_steps"]) == ("Instruments", None, None)
    assert {key: identity[key] for key in settings} == settings
    assert identity["options"] == options


TRAINED = [name for name in plugins.names("cf") if plugins.load("cf", name).TRAINED]
UNDECIDED = {"bert4rec"}  # patience ended none of its trials: its defaults ship


@pytest.mark.parametrize("name", sorted({*TRAINED} - UNDECIDED))
def test_what_ships_for_instruments_is_the_winner_of_its_search(name: str) -> None:
    assert_ships_the_winner(name, read_log(RESULTS / f"tune-{name}.jsonl"))


@pytest.mark.parametrize("name", sorted(UNDECIDED))
def test_a_search_that_decides_nothing_is_one(name: str) -> None:
    rows = read_log(RESULTS / f"tune-{name}.jsonl")
    assert all(row["epochs"] == row["identity"]["epochs"] for row in rows), "patience ended none"
    assert "instruments" not in plugins.load("cf", name).PRESETS


def test_a_preset_that_is_not_the_winner_is_noticed() -> None:
    settings, options = shipped("sasrec")
    identity = {**settings, "options": options, "dataset": "Instruments", "limit_users": None, "max_steps": None}
    won = {"valid_ndcg@10": 0.2, "identity": identity}
    other = {"valid_ndcg@10": 0.1, "identity": {**identity, "learning_rate": 0.5}}
    failed = {"valid_ndcg@10": None, "failed": "step 1", "identity": {**identity, "clip": 1.0}}
    assert_ships_the_winner("sasrec", [failed, other, won])
    with pytest.raises(AssertionError):
        assert_ships_the_winner("sasrec", [{**other, "valid_ndcg@10": 0.3}, won])
    with pytest.raises(AssertionError):
        assert_ships_the_winner("sasrec", [failed])


def test_every_recorded_grid_holds_what_ships_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(RESULTS.parent)
    grids = importlib.import_module("tune_cf").GRIDS
    assert set(grids) == {name for name in plugins.names("cf") if plugins.load("cf", name).TRAINED}
    for name, grid in grids.items():
        settings, options = shipped(name)
        for key, values in grid.values.items():
            assert (settings | options)[key] in values, (name, key)
        preset = plugins.load("cf", name).PRESETS.get("instruments", {})
        assert set(preset) <= {*grid.values, *BUDGET}, f"{name}: the grid leaves out a part of the preset"
        assert 4 <= grid.trials <= 6


def test_the_recording_script_copies_the_log_of_the_command_unedited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(RESULTS.parent)
    script = importlib.import_module("tune_cf")
    grid = script.Grid(1, {"learning_rate": (1e-3, 2e-3), "embedding_size": (4,)})
    monkeypatch.setattr(script, "GRIDS", {"bpr": grid})
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script, "at_most", lambda model, threads: 60.0)
    monkeypatch.setattr(script, "ilrec", lambda *words: cli.invoke([str(word) for word in words]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    raw, work = instruments_folder(tmp_path / "raw"), tmp_path / "work"
    monkeypatch.setattr("sys.argv", ["tune_cf.py", str(raw), "--work", str(work), "--models", "bpr"])
    script.main()
    copied = tmp_path / "results" / "tune-bpr.jsonl"
    written = work / "Instruments" / "tune" / "bench-bpr" / "trials.jsonl"
    assert copied.read_bytes() == written.read_bytes()
    rows = read_log(copied)
    assert [row["changed"]["learning_rate"] for row in rows] == [1e-3, 2e-3]
    assert all(row["identity"]["epochs"] == 1 for row in rows)
    monkeypatch.setattr(tune_cf, "_run_trial", lambda *a: pytest.fail("all are recorded"))
    script.main()
    assert copied.read_bytes() == written.read_bytes()
    monkeypatch.setattr("sys.argv", ["tune_cf.py", str(raw), "--models", "bpr,gru5rec"])
    with pytest.raises(SystemExit, match="2"):
        script.main()


@pytest.mark.parametrize("name", plugins.names("cf"))
def test_every_preset_is_a_configuration(name: str) -> None:
    plugin = plugins.load("cf", name)
    for preset in plugin.PRESETS:
        config = configs.build(
            TrainCf, presets.under(TrainCf, {"dataset": "x", "model": name, "preset": preset}), preset
        )
        configs.build(plugin.Config, config.options, preset)
