"""SIGKILL at random moments of a 60-step run, while a checkpoint is written too: the same bits. 200 for `make soak`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LOG = Path(__file__).parents[2] / "benchmarks" / "results" / "soak-kills.json"


def killed(folder: Path, kills: int) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), str(folder), str(kills)]
    paths = [str(Path(__file__).parents[level]) for level in (0, 1, 2)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] == kills
    assert found["runs_that_ended_with_the_same_bits"] > 0
    return found


def test_a_run_killed_five_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    assert killed(tmp_path, 5)["killed_in"].keys() <= {"start", "update", "write", "between"}


@pytest.mark.soak
def test_killed_again_and_again_a_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    found = killed(tmp_path, int(os.environ.get("ILREC_SOAK_KILLS", "200")))
    assert found["killed_in"]["write"] > 0, "no kill fell into the writing of a checkpoint"
    LOG.write_text(json.dumps(found, indent=1) + "\n")
