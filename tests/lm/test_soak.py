"""Long runs for `make soak`: kills at random moments, while a checkpoint is written too."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY_LM

from ilrec_cli import artifacts

LOG = Path(__file__).parents[2] / "benchmarks" / "results" / "soak-kills.json"
KILLS = int(os.environ.get("ILREC_SOAK_KILLS", "200"))
SETTINGS = [*TINY_LM, "--epochs", "9", "--max-steps", "60", "--save-every", "1"]


def start(world: Path, name: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ilrec_cli", "train", "--dataset", "toy", "--work", str(world), "--name", name]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *SETTINGS, *more], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.soak
def test_killed_again_and_again_a_run_ends_with_the_same_bits(own_world: Path) -> None:
    straight = start(own_world, "straight")
    output, _ = straight.communicate(timeout=300)
    assert straight.returncode == 0, output
    wanted = artifacts.read(own_world / "toy" / "runs" / "straight" / "train", "run").digest
    moments = random.Random(0)
    kills = finished = 0
    while kills < KILLS:
        name = f"killed-{finished}"
        train = own_world / "toy" / "runs" / name / "train"
        resume = ["--resume"] if (train / "checkpoints" / "last.safetensors").exists() else []
        if not resume and train.exists():
            resume = ["--overwrite"]
        process = start(own_world, name, *resume)
        while process.poll() is None and not (train / "log.jsonl").exists():
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 2.5))
        if process.poll() is None:
            process.kill()
            kills += 1
        output, _ = process.communicate()
        if artifacts.exists(train):
            assert artifacts.read(train, "run").digest == wanted, f"after {kills} kills"
            finished += 1
    assert finished > 0
    LOG.write_text(json.dumps({"kills": kills, "runs_finished_with_the_same_digest": finished}, indent=1) + "\n")
