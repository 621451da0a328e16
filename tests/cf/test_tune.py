"""tune cf: the grid, the budget, resuming, and that nothing of it depends on test events."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished

from ilrec_cli import config as configs
from ilrec_cli.cf import sasrec
from ilrec_cli.histories import Sequences
from ilrec_cli.json_log import read_log
from ilrec_cli.stages import _inputs, tune_cf

SMALL = [
    "-o",
    "n_heads=1",
    "-o",
    "hidden_size=4,8",
    "-o",
    "learning_rate=1e-2,1e-3",
    "--epochs",
    "2",
    "--batch-size",
    "16",
]


def search(world: Path, *more: Any) -> list[Any]:
    return ["tune", "cf", "--dataset", "toy", "--work", world, *SMALL, *more]


def recorded(world: Path, name: str = "sasrec") -> list[dict[str, Any]]:
    return read_log(world / "toy" / "tune" / name / "trials.jsonl")


def results(rows: list[dict[str, Any]]) -> list[Any]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_every_combination_is_tried_and_the_best_is_what_train_cf_then_trains(
    own_world: Path, ilrec: Callable[..., Finished]
) -> None:
    done = ilrec(*search(own_world), "--json")
    assert done.code == 0, done.err
    rows = recorded(own_world)
    tried = [(row["changed"]["hidden_size"], row["changed"]["learning_rate"]) for row in rows]
    assert tried == [(4, 1e-2), (4, 1e-3), (8, 1e-2), (8, 1e-3)]
    best = max(rows, key=lambda row: row["valid_ndcg@10"])
    assert json.loads(done.out.splitlines()[-1])["best"] == best
    shown = [line.split()[3] for line in done.out.splitlines() if line.split()[:1] == ["1"]]
    assert shown == sorted((f"{row['valid_ndcg@10']:.4f}" for row in rows), reverse=True)
    file = own_world / "toy" / "tune" / "sasrec" / "best.yaml"
    assert configs.read_yaml(file) == {
        "model": "sasrec", "batch_size": 16, "learning_rate": best["changed"]["learning_rate"],
        "options": {"n_heads": 1, "hidden_size": best["changed"]["hidden_size"]},
    }  # fmt: skip
    trained = ilrec("train-cf", "--dataset", "toy", "--work", own_world, "--config", file, "--epochs", "2", "--json")
    assert json.loads(trained.out.splitlines()[-1])["valid"]["ndcg@10"] == best["valid_ndcg@10"]


def test_a_search_goes_on_where_it_was_killed(
    own_world: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ilrec(*search(own_world, "--name", "straight")).code == 0
    run_trial, count = tune_cf._run_trial, iter(range(10))

    def dying(*arguments: Any) -> dict[str, Any]:
        if next(count) == 2:
            raise MemoryError("stands for a kill")
        return run_trial(*arguments)

    monkeypatch.setattr(tune_cf, "_run_trial", dying)
    with pytest.raises(MemoryError):
        ilrec(*search(own_world, "--name", "killed"))
    log = own_world / "toy" / "tune" / "killed" / "trials.jsonl"
    assert len(recorded(own_world, "killed")) == 2
    with log.open("a") as file:
        file.write('{"changed": {"hidd')  # killed while it wrote
    run: list[Any] = []
    monkeypatch.setattr(tune_cf, "_run_trial", lambda *a: (run.append(a[1].changed), run_trial(*a))[1])
    assert ilrec(*search(own_world, "--name", "killed")).code == 0
    assert len(run) == 2
    assert results(recorded(own_world, "killed")) == results(recorded(own_world, "straight"))
    assert ilrec(*search(own_world, "--name", "killed")).code == 0
    assert len(run) == 2, "nothing is left to run"
    assert ilrec(*search(own_world, "--name", "killed", "--overwrite")).code == 0
    assert len(run) == 6


def test_test_events_are_not_read(
    own_world: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same search with other items in the place of every test target finds the same, digit for digit."""
    assert ilrec(*search(own_world, "--name", "true")).code == 0
    honest, asked = _inputs.sequences, []

    def poisoned(data: Any) -> Sequences:
        found, (_, user, end) = honest(data), events(data, "test")
        items = found.items.copy()
        items[found.offsets[user] + end] = np.random.default_rng(0).integers(items.max() + 1, size=len(user))
        assert (items != found.items).any()
        return Sequences(items, found.offsets)

    events = _inputs.events
    monkeypatch.setattr(_inputs, "sequences", poisoned)
    monkeypatch.setattr(_inputs, "events", lambda data, split: (asked.append(split), events(data, split))[1])
    assert ilrec(*search(own_world, "--name", "poisoned")).code == 0
    assert results(recorded(own_world, "poisoned")) == results(recorded(own_world, "true"))
    assert set(asked) == {"valid"}
    assert not list((own_world / "toy" / "tune").rglob("eval"))


def test_a_budget_draws_trials_and_a_larger_one_keeps_them(own_world: Path, ilrec: Callable[..., Finished]) -> None:
    assert ilrec(*search(own_world, "--trials", "2")).code == 0
    two = recorded(own_world)
    assert len(two) == 2
    assert ilrec(*search(own_world, "--trials", "3")).code == 0
    assert recorded(own_world)[:2] == two
    assert len(recorded(own_world)) == 3
    assert ilrec(*search(own_world, "--trials", "99")).code == 0
    assert len(recorded(own_world)) == 4


def test_a_file_lists_values_too(own_world: Path, tmp_path: Path, ilrec: Callable[..., Finished]) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "epochs: 1\nbatch_size: 16\noptions: {hidden_size: [4, 8], n_heads: 1, weight_decay: [0.0, 1e-2]}\n"
    )
    assert ilrec("tune", "cf", "--dataset", "toy", "--work", own_world, "--config", file).code == 0
    assert [(row["changed"]["hidden_size"], row["changed"]["weight_decay"]) for row in recorded(own_world)] == [
        (4, 0.0), (4, 0.01), (8, 0.0), (8, 0.01),
    ]  # fmt: skip


def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(
    own_world: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ["tune", "cf", "--dataset", "toy", "--work", own_world, "-o", "n_heads=1", "-o", "hidden_size=4",
            "--epochs", "1", "--batch-size", "16"]  # fmt: skip
    done = ilrec(*base, "-o", "learning_rate=1e30,1e-3", "--json")
    assert done.code == 0, done.err
    failed, fine = recorded(own_world)
    assert failed["changed"]["learning_rate"] == 1e30
    assert failed["valid_ndcg@10"] is failed["valid_hit@10"] is failed["best_epoch"] is None
    assert "not finite" in failed["failed"]
    assert "failed" not in fine
    assert json.loads(done.out.splitlines()[-1])["best"] == fine
    folder = own_world / "toy" / "tune" / "sasrec"
    assert configs.read_yaml(folder / "best.yaml")["learning_rate"] == 1e-3
    assert "failed: step " in done.out
    table = [line.split() for line in done.out.splitlines() if line.split()[:2] == ["1", "4"]]
    assert [row[3] != "-" for row in table] == [True, False], "the failed trial is last, without figures"
    monkeypatch.setattr(tune_cf, "_run_trial", lambda *a: pytest.fail("both are recorded"))
    assert ilrec(*base, "-o", "learning_rate=1e30,1e-3").code == 0
    monkeypatch.undo()
    line = ilrec(*base, "-o", "learning_rate=1e29,1e30").one_line()
    assert "all 2 trials failed" in line
    assert "not finite" in line
    assert not (folder / "best.yaml").exists()
    assert len(recorded(own_world)) == 3


def test_equal_trials_run_once_however_they_are_spelled(own_world: Path, ilrec: Callable[..., Finished]) -> None:
    base = ["tune", "cf", "--dataset", "toy", "--work", own_world, "-o", "n_heads=1", "-o", "hidden_size=4",
            "--epochs", "1", "--batch-size", "16"]  # fmt: skip
    done = ilrec(*base, "-o", "learning_rate=1e-3,0.001,1e-3", "--json")
    assert json.loads(done.out.splitlines()[-1])["trials"] == len(recorded(own_world)) == 1
    done = ilrec(*base, "-o", "learning_rate=1e-3,0.001,1e-2", "--trials", "2", "--json")
    assert json.loads(done.out.splitlines()[-1])["trials"] == len(recorded(own_world)) == 2


def test_what_cannot_be_tried_is_refused_before_anything_runs(own_world: Path, ilrec: Callable[..., Finished]) -> None:
    base = ["tune", "cf", "--dataset", "toy", "--work", own_world]
    assert "nothing to try" in ilrec(*base).one_line()
    assert "Did you mean 'hidden_size'" in ilrec(*base, "-o", "hiden_size=4").one_line()
    assert "lists no value" in ilrec(*base, "-o", "hidden_size=").one_line()
    assert "must be a multiple of n_heads" in ilrec(*base, "-o", "hidden_size=64,63").one_line()
    assert "learning_rate is 0.0" in ilrec(*base, "-o", "learning_rate=1e-3,0").one_line()
    many = [
        word for key in ("hidden_size", "inner_size", "batch_size") for word in ("-o", f"{key}={','.join(['8'] * 20)}")
    ]
    assert "8,000 combinations" in ilrec(*base, *many).one_line()
    assert "nothing to tune" in ilrec(*base, "--model", "popularity", "-o", "epochs=1").one_line()
    assert not (own_world / "toy" / "tune").exists()


def test_a_preset_lies_under_files_and_flags(
    own_world: Path, tmp_path: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sasrec, "PRESETS", {"my-shop": {"epochs": 1, "batch_size": 8, "hidden_size": 6, "n_heads": 1}})
    file = tmp_path / "file.yaml"
    file.write_text("options: {n_layers: 1}\nbatch_size: 32\n")
    command = ["train-cf", "--dataset", "toy", "--work", own_world, "--name", "preset", "--preset", "my_shop"]
    assert ilrec(*command, "--config", file, "-o", "hidden_size=4").code == 0
    found = _inputs.read_config(own_world / "toy" / "cf" / "preset" / "train")
    assert (found["epochs"], found["batch_size"]) == (1, 32)
    assert [found["options"][key] for key in ("hidden_size", "n_heads", "n_layers")] == [4, 1, 1]
    assert "choose from my-shop" in ilrec(*command[:-1], "other").one_line()
