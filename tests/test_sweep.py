"""`ilrec sweep`: every trial is what `train` makes of its settings, none runs twice, test events are not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished

from ilrec_cli import artifacts, config, folders
from ilrec_cli.errors import UserError
from ilrec_cli.json_log import read_log
from ilrec_cli.methods import ilrec as plugin
from ilrec_cli.stages import _inputs, _space
from ilrec_cli.stages._space import Range
from ilrec_cli.stages._trial_processes import Processes

Run = Callable[..., Finished]
SMALL = {"method": "ilrec", "hidden_size": 16, "n_layers": 3, "n_heads": 2, "inner_size": 32, "epochs": 1, "batch_size": 32,
         "valid_users": 20, "valid_beams": 4, "max_steps": 3, "options": {"mu_crr": 0.02}}  # fmt: skip


@pytest.fixture
def sweep(own_world: Path, ilrec: Run) -> Callable[..., Finished]:
    """Run `ilrec sweep` on small models."""
    file = own_world / "small.yaml"
    file.write_text(config.to_yaml(SMALL))
    return lambda *flags: ilrec("sweep", "--dataset", "toy", "--work", own_world, "--train", file, *flags, "--json")


def said(result: Finished) -> Any:
    assert result.code == 0, result.err
    return json.loads(result.out.splitlines()[-1])


def recorded(work: Path, name: str = "ilrec") -> list[dict[str, Any]]:
    return read_log(work / "toy" / "sweeps" / name / "trials.jsonl")


def test_every_combination_is_trained_and_the_best_file_trains_it_again(
    own_world: Path, sweep: Run, ilrec: Run
) -> None:
    found = said(sweep("-o", "alpha=0.5,0.8", "-o", "learning_rate=1e-4,5e-3"))
    rows = recorded(own_world)
    assert [(row["changed"]["alpha"], row["changed"]["learning_rate"]) for row in rows] == [
        (0.5, 1e-4), (0.5, 5e-3), (0.8, 1e-4), (0.8, 5e-3)]  # fmt: skip
    assert all(row["identity"]["options"]["mu_crr"] == 0.02 for row in rows)
    best = max(rows, key=lambda row: row["valid_ndcg@10"])
    assert found["best"]["valid_ndcg@10"] == best["valid_ndcg@10"]
    # Only the best model is kept, and it is what its log says.
    (run,) = (path.name for path in (own_world / "toy" / "runs").glob("sweep-*"))
    assert run == best["run"]
    log = read_log(own_world / "toy" / "runs" / run / "train" / "log.jsonl")
    assert max(row.get("valid_ndcg@10", 0.0) for row in log) == best["valid_ndcg@10"]
    file = own_world / "toy" / "sweeps" / "ilrec" / "best.yaml"
    again = said(ilrec("train", "--work", own_world, "--config", file, "--name", "again", "--json"))
    assert again["best_valid_ndcg@10"] == best["valid_ndcg@10"]
    assert artifacts.read(own_world / "toy" / "runs" / "again" / "train", "run").digest == artifacts.read(
        own_world / "toy" / "runs" / run / "train", "run").digest  # fmt: skip


def test_a_sweep_goes_on_where_it_was_killed(own_world: Path, sweep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from ilrec_cli.stages import train

    run, trained = train.run, []

    def dying(settings: Any) -> dict[str, Any]:
        if len(trained) == 1:
            raise MemoryError("stands for a kill")
        trained.append(settings.options["alpha"])
        return run(settings)

    monkeypatch.setattr(train, "run", dying)
    with pytest.raises(MemoryError):
        sweep("-o", "alpha=0.5,0.8")
    assert len(recorded(own_world)) == 1
    with (own_world / "toy" / "sweeps" / "ilrec" / "trials.jsonl").open("a") as file:
        file.write('{"changed": {"al')  # killed while it wrote
    monkeypatch.setattr(train, "run", lambda settings: (trained.append(settings.options["alpha"]), run(settings))[1])
    assert said(sweep("-o", "alpha=0.5,0.8"))["trials"] == 2
    assert trained == ["0.5", "0.8"]
    assert said(sweep("-o", "alpha=0.80,0.5"))["trials"] == 2, "0.80 is 0.8, which is recorded"
    assert len(trained) == 2


@pytest.mark.soak
def test_trials_on_several_devices_are_those_of_one(own_world: Path, sweep: Run) -> None:
    flags = ["-o", "alpha=0.5,0.8", "-o", "learning_rate=1e-3,1e30"]
    said(sweep(*flags, "--name", "one"))
    said(sweep(*flags, "--name", "two", "--devices", "cpu,cpu"))
    for one, two in zip(recorded(own_world, "one"), recorded(own_world, "two"), strict=True):
        for key in ("changed", "valid_ndcg@10", "identity"):
            assert one[key] == two[key]
        assert ("failed" in one) == ("failed" in two)


def test_a_process_of_a_trial_says_what_went_wrong_and_gives_its_device_back() -> None:
    processes = Processes(["cpu"])
    for _ in range(2):
        with pytest.raises(UserError, match="--dataset is missing"):
            processes.train(["train"])
    assert processes.free.qsize() == 1
    assert not processes.running


def test_a_training_that_outlived_a_killed_search_is_waited_for(
    own_world: Path, sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no failure of the trial, which would be recorded for good."""
    from ilrec_cli.stages import sweep as stage

    said(sweep("-o", "alpha=0.5,0.8", "--trials", "1", "--keep", "all"))
    (run,) = (own_world / "toy" / "runs").glob("sweep-*")
    (own_world / "toy" / "sweeps" / "ilrec" / "trials.jsonl").unlink()  # killed before the line was written
    with ExitStack() as other:
        assert other.enter_context(folders.locked(run, wait=False))
        monkeypatch.setattr(stage.time, "sleep", lambda seconds: other.close())
        result = sweep("-o", "alpha=0.5,0.8", "--trials", "1", "--keep", "all")
    assert "is trained by another process" in result.out
    assert said(result)["trials"] == 1
    assert "failed" not in recorded(own_world)[0]


def test_test_events_are_not_read(own_world: Path, sweep: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said(sweep("-o", "alpha=0.5,0.8", "--name", "true"))
    honest = _inputs.events

    def refusing(data: Any, split: str) -> Any:
        assert split != "test"
        return honest(data, split)

    monkeypatch.setattr(_inputs, "events", refusing)
    said(sweep("-o", "alpha=0.5,0.8", "--name", "refused"))
    for one, other in zip(recorded(own_world, "true"), recorded(own_world, "refused"), strict=True):
        assert one["valid_ndcg@10"] == other["valid_ndcg@10"]


def test_a_trial_that_fails_is_recorded_and_the_others_go_on(own_world: Path, sweep: Run) -> None:
    result = sweep("-o", "learning_rate=1e30,1e-3")
    assert said(result)["best"]["changed"] == {"learning_rate": 1e-3}
    failed = recorded(own_world)[0]
    assert failed["valid_ndcg@10"] is None
    assert "not finite" in failed["failed"]
    assert "1 trials failed" in result.err


def test_random_draws_values_and_ranges_and_more_trials_keep_the_first(own_world: Path, sweep: Run) -> None:
    space = ["-o", "alpha=0.1..1.2", "-o", "learning_rate=1e-4..1e-2:log", "-o", "beta=0.1,0.2", "--search", "random"]
    said(sweep(*space, "--trials", "1"))
    first = recorded(own_world)
    said(sweep(*space, "--trials", "2"))
    assert recorded(own_world)[:1] == first
    assert len(recorded(own_world)) == 2
    for row in recorded(own_world):
        assert 0.1 <= row["changed"]["alpha"] <= 1.2
        assert 1e-4 <= row["changed"]["learning_rate"] <= 1e-2
        assert row["changed"]["beta"] in (0.1, 0.2)


def test_ranges_are_spread_as_they_say() -> None:
    rng = np.random.default_rng(0)
    even, log, whole = (_space.axis("x", [text]) for text in ("0..1", "1e-4..1e-2:log", "1..3"))
    assert isinstance(whole, Range)
    assert isinstance(log, Range)
    assert {whole.draw(rng) for _ in range(60)} == {1, 2, 3}
    assert abs(np.mean([np.log10(log.draw(rng)) for _ in range(400)]) + 3) < 0.1
    assert even == Range(0.0, 1.0, False, True)
    assert _space.axis("x", ["-1", "-2"]) == ["-1", "-2"]


def test_optuna_is_told_what_is_recorded(own_world: Path, sweep: Run) -> None:
    pytest.importorskip("optuna")
    flags = ["-o", "alpha=0.1..1.2", "-o", "beta=0.1,0.2", "--search", "optuna"]
    said(sweep(*flags, "--trials", "1"))
    first = recorded(own_world)
    found = said(sweep(*flags, "--trials", "3"))
    assert found["trials"] == len(recorded(own_world)) == 3
    assert recorded(own_world)[:1] == first
    assert len({row["changed"]["alpha"] for row in recorded(own_world)}) == 3


def test_the_papers_grid_is_the_papers(sweep: Run) -> None:
    grid = plugin.GRIDS["paper"]
    assert grid["alpha"] == (0.1, 0.5, 0.8, 1.0, 1.2)
    assert grid["beta"] == (0.005, 0.01, 0.05, 0.1, 0.2)
    assert grid["lambda_cpd"] == grid["mu_crr"] == (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1)
    found = said(sweep("--grid", "paper", "-o", "alpha=0.8", "-o", "mu_crr=0.01", "--trials", "1"))
    assert found["best"]["changed"].keys() == set(grid)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "nothing to try"),
        (["-o", "alhpa=1"], "Did you mean 'alpha'?"),
        (["-o", "alpha=-1,1"], "alpha is -1.0, expected at least 0"),
        (["-o", "alpha=0.1..1"], "Add --search random or optuna"),
        (["-o", "alpha=1..0.1", "--search", "random", "--trials", "2"], "LOW below HIGH"),
        (["-o", "alpha=0.1..1", "--search", "random"], "say how many --trials"),
        (["--grid", "papers"], "Did you mean 'paper'?"),
        (["-o", "work=a,b"], "unknown setting 'work'"),
        (["-o", "ids=nobody"], "no item identifiers 'nobody'"),
    ],
)
def test_mistakes_cost_one_line_and_nothing_runs(flags: list[str], message: str, own_world: Path, sweep: Run) -> None:
    assert message in sweep(*flags).one_line()
    assert not list((own_world / "toy").glob("runs/sweep-*"))
