"""Trainings by the command line: killed and resumed, not overwritten, started again from their own configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import TINY_LM, Finished
from processes import LIMIT

from ilrec_cli import artifacts, cli
from ilrec_cli.json_log import read_log

KILLED = [*TINY_LM, "--epochs", "3", "--save-every", "3", "--max-steps", "20"]


def start(world: Path, name: str, *more: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "ilrec_cli",
        "train",
        "--dataset",
        "toy",
        "--work",
        str(world),
        "--name",
        name,
        *KILLED,
        *more,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def kill_at(process: subprocess.Popen[str], log: Path, step: int) -> None:
    """SIGKILL as soon as the log has reached a step."""
    deadline = time.monotonic() + LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if any(row["step"] >= step for row in read_log(log)):
            process.kill()
            process.communicate()
            return
        time.sleep(0.005)
    raise AssertionError(f"the run ended before step {step}: {process.communicate()[0]}")


def test_killed_and_resumed_by_the_commands_ends_with_the_same_digest(own_world: Path) -> None:
    straight = start(own_world, "straight")
    output, _ = straight.communicate(timeout=LIMIT)
    assert straight.returncode == 0, output
    log = own_world / "toy" / "runs" / "killed" / "train" / "log.jsonl"
    kill_at(start(own_world, "killed"), log, 8)
    last = start(own_world, "killed", "--resume")
    output, _ = last.communicate(timeout=LIMIT)
    assert last.returncode == 0, output
    assert "Resuming after step" in output
    one, two = (artifacts.read(own_world / "toy" / "runs" / name / "train", "run") for name in ("straight", "killed"))
    assert one.manifest["files"]["model/model.safetensors"] == two.manifest["files"]["model/model.safetensors"]
    assert one.digest == two.digest
    assert not (two.path / "checkpoints").exists()


def test_runs_are_not_overwritten_unasked(own_world: Path, ilrec: Callable[..., Finished]) -> None:
    common = [
        "train",
        "--dataset",
        "toy",
        "--work",
        own_world,
        "--name",
        "kept",
        "--method",
        "sft",
        *TINY_LM,
        "--max-steps",
        "2",
    ]
    assert ilrec(*common).code == 0
    again = ilrec(*common)
    assert again.code == 0
    assert "Already trained" in again.out
    assert "with other settings: seed is 1, that run has 0." in ilrec(*common, "--seed", "1").one_line()
    unfinished = own_world / "toy" / "runs" / "half" / "train" / "checkpoints"
    unfinished.mkdir(parents=True)
    (unfinished / "last.safetensors").touch()
    assert "--resume" in ilrec(*common[:6], "half", *common[7:]).one_line()


def test_the_saved_configuration_starts_the_same_run(trained: Path, ilrec: Callable[..., Finished]) -> None:
    saved = trained / "toy" / "runs" / "ilrec" / "train"
    result = ilrec("train", "--config", saved / "config.yaml", "--work", trained, "--name", "from-config")
    assert result.code == 0, result.err
    one, two = (artifacts.read(path, "run") for path in (saved, saved.parent.parent / "from-config" / "train"))
    assert one.digest == two.digest
    json.dumps(
        cli.invoke(
            [
                "recommend",
                "--dataset",
                "toy",
                "--work",
                str(trained),
                "--run",
                "from-config",
                "--user",
                _user(trained),
                "--quiet",
            ]
        )
    )


def _user(work: Path) -> str:
    return artifacts.read(work / "toy" / "data", "data").table("users")["raw_id"][0].as_py()
