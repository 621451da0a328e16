"""The scripts in examples/ run, and the configurations are valid."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Finished, instruments_folder

from ilrec_cli import config, settings

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_are_valid(path: Path) -> None:
    config.build(settings.Train, config.read_yaml(path), path.name)


def test_the_script_chains_the_stages(tmp_path: Path, ilrec: Callable[..., Finished]) -> None:
    raw = instruments_folder(tmp_path / "raw")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", EXAMPLES / "instruments.sh", raw, "--max-steps", "2", "--limit-users", "50"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ilrec-work" / "Instruments" / "report.html").is_file()
    assert "ilrec" in done.stdout
