"""Training by the command line: kills, unfinished and finished runs, seeds, mixed precision, seen items."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished

from ilrec_cli import artifacts, plugins
from ilrec_cli.cf._fit import Fit
from ilrec_cli.json_log import read_log

COMMON = ["--epochs", "3", "--batch-size", "16", "-o", "hidden_size=8", "-o", "n_heads=1"]


def test_killed_by_the_command_line_and_resumed_the_artifact_has_the_same_digest(own_world: Path) -> None:
    base = ["train-cf", "--dataset", "toy", "--work", str(own_world), *COMMON, "--epochs", "6"]
    command = [sys.executable, "-m", "ilrec_cli", *base]
    subprocess.run([*command, "--name", "straight"], check=True, capture_output=True)
    folder = own_world / "toy" / "cf" / "killed" / "train"
    process = subprocess.Popen(
        [*command, "--name", "killed"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch   2"):
            process.kill()
            break
    process.wait()
    assert (folder / "checkpoints" / "last.safetensors").exists()
    subprocess.run([*command, "--name", "killed", "--resume"], check=True, capture_output=True)
    one, two = (artifacts.read(own_world / "toy" / "cf" / name / "train", "cf") for name in ("straight", "killed"))
    assert one.digest == two.digest
    assert not (folder / "checkpoints").exists()


def test_an_unfinished_training_is_neither_taken_nor_lost_unasked(
    own_world: Path, ilrec: Callable[..., Finished], monkeypatch: Any
) -> None:
    command = ["train-cf", "--dataset", "toy", "--work", own_world, "--name", "half", *COMMON]
    validate = Fit._validate
    monkeypatch.setattr(Fit, "_validate", lambda self: (os.kill(os.getpid(), signal.SIGTERM), validate(self))[1])
    stopped = ilrec(*command)
    assert stopped.code == 130
    assert "go on with --resume" in stopped.out
    monkeypatch.setattr(Fit, "_validate", validate)
    assert "unfinished run. Go on with --resume" in ilrec(*command).one_line()
    assert "seed is 1, the checkpoint has 0" in ilrec(*command, "--resume", "--seed", "1").one_line()
    assert "exclude each other" in ilrec(*command, "--resume", "--overwrite").one_line()
    assert ilrec(*command, "--resume").code == 0
    assert [row["epoch"] for row in read_log(own_world / "toy" / "cf" / "half" / "train" / "log.jsonl")] == [1, 2, 3]
    assert "other settings" in ilrec(*command, "--seed", "1").one_line()


def test_several_seeds_are_several_models_and_finished_ones_are_skipped(
    own_world: Path, ilrec: Callable[..., Finished]
) -> None:
    command = ["train-cf", "--dataset", "toy", "--work", own_world, "--name", "many", *COMMON, "--json"]
    assert ilrec(*command, "--seeds", "2").code == 0
    stamp = (own_world / "toy" / "cf" / "many-s2" / "train" / "manifest.json").stat().st_mtime_ns
    done = ilrec(*command, "--seeds", "0,1,2", "--resume")
    assert done.code == 0, done.err
    result = json.loads(done.out.splitlines()[-1])
    assert [run["name"] for run in result["runs"]] == ["many-s0", "many-s1", "many-s2"]
    assert (own_world / "toy" / "cf" / "many-s2" / "train" / "manifest.json").stat().st_mtime_ns == stamp
    values = [run["test"]["ndcg@10"] for run in result["runs"]]
    assert len(set(values)) == 3
    assert result["mean"]["test"]["ndcg@10"] == pytest.approx(np.mean(values))
    assert result["std"]["test"]["ndcg@10"] == pytest.approx(np.std(values, ddof=1))
    assert f"{result['std']['test']['ndcg@10']:.4f}" in done.out
    alone = ilrec(*command[:-1], "--name", "alone", "--seed", "1", "--json")
    assert json.loads(alone.out.splitlines()[-1])["test"] == result["runs"][1]["test"]
    assert "seeds is (1, 1)" in ilrec(*command, "--seeds", "1,1").one_line()


def test_without_a_name_a_model_of_other_data_is_replaced(own_world: Path, ilrec: Callable[..., Finished]) -> None:
    command = ["train-cf", "--dataset", "toy", "--work", own_world, *COMMON]
    assert ilrec(*command, "--json").code == 0
    data = artifacts.read(own_world / "toy" / "data", "data")
    again = ["preprocess", "--dataset", "toy", "--work", own_world, "--source", "synthetic", "-o", "users=100",
             "--user-k", "4", "--item-k", "1"]  # fmt: skip
    assert ilrec(*again).code == 0
    done = ilrec(*command, "--resume", "--json")
    assert done.code == 0, done.err
    found = artifacts.read(Path(json.loads(done.out.splitlines()[-1])["path"]), "cf")
    assert found.manifest["parents"]["data"] == artifacts.read(own_world / "toy" / "data", "data").digest != data.digest


@pytest.mark.parametrize("name", [name for name in plugins.names("cf") if plugins.load("cf", name).TRAINED])
def test_every_model_trains_in_mixed_precision(name: str, own_world: Path, ilrec: Callable[..., Finished]) -> None:
    command = [
        "train-cf",
        "--dataset",
        "toy",
        "--work",
        own_world,
        "--model",
        name,
        "--epochs",
        "2",
        "--batch-size",
        "16",
    ]
    done = ilrec(*command, "--dtype", "bfloat16", "--name", "mixed")
    assert done.code == 0, done.err
    rows = read_log(own_world / "toy" / "cf" / "mixed" / "train" / "log.jsonl")
    assert rows[1]["loss"] < rows[0]["loss"]


def test_what_is_done_with_seen_items_is_part_of_the_protocol(own_world: Path, ilrec: Callable[..., Finished]) -> None:
    command = ["train-cf", "--dataset", "toy", "--work", own_world, "--name", "seen", *COMMON]
    assert ilrec(*command).code == 0
    assert ilrec(*command, "--seen-items", "removed").code == 0
    folder = own_world / "toy" / "cf" / "seen" / "eval"
    assert sorted(path.name for path in folder.iterdir()) == [
        "test-full", "test-full-unseen", "valid-full", "valid-full-unseen",
    ]  # fmt: skip
    protocol = json.loads((folder / "test-full-unseen" / "metrics.json").read_text())["protocol"]
    assert protocol["seen_items"] == "removed"
    rows = artifacts.read(folder / "test-full-unseen", "eval").table("rankings").to_pylist()
    data = artifacts.read(own_world / "toy" / "data", "data")
    raw = data.table("items")["raw_id"].to_pylist()
    history = {
        user: [raw[item] for item in items[:-1]]
        for user, items in zip(
            data.table("users")["raw_id"].to_pylist(), data.table("sequences")["items"].to_pylist(), strict=True
        )
    }
    assert all(not set(row["items"]) & set(history[row["user"]]) for row in rows)
    evaluated = ilrec("evaluate", *command[1:5], "--run", "seen", "--seen-items", "removed")
    assert evaluated.code == 0
    assert "evaluated already" in evaluated.out
