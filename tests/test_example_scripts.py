"""The scripts in examples/ run, and the configurations are valid."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_LM, Finished, instruments_folder
from said_folder import raw_folder

from ilrec_cli import config, settings

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_are_valid(path: Path) -> None:
    config.build(settings.Train, config.read_yaml(path), path.name)


def test_the_script_chains_the_stages(tmp_path: Path, ilrec: Callable[..., Finished]) -> None:
    raw = instruments_folder(tmp_path / "raw")
    done = script(tmp_path, "instruments.sh", raw, "--max-steps", "2", "--limit-users", "50")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ilrec-work" / "Instruments" / "report.html").is_file()
    assert "ilrec" in done.stdout


def test_all_tasks_of_lc_rec_at_toy_size(
    tmp_path: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script's own commands, in one process: a stand-in for `ilrec` notes them, and they are run after that."""
    raw = raw_folder(tmp_path / "raw")
    stand_in = tmp_path / "bin" / "ilrec"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/usr/bin/env bash\nprintf "%s\\t" "$@" >> "$NOTED"; echo >> "$NOTED"\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("NOTED", str(tmp_path / "noted"))
    small = ["--max-steps", "2", "--limit-users", "50", "--epochs", "1"]
    done = script(tmp_path, "lcrec.sh", raw, *small, first=stand_in.parent)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    for line in (tmp_path / "noted").read_text().splitlines():
        arguments = line.split("\t")[:-1]
        result = ilrec(*arguments, *(TINY_LM if arguments[0] == "train" else []))
        assert result.code == 0, (arguments, result.err)
        if arguments[0] == "train":
            assert "examples an epoch: next_item" in result.out
            assert "item_search" in result.out
    runs = tmp_path / "ilrec-work" / "Instruments" / "runs"
    for name in ("lcrec-sft", "lcrec-ilrec"):
        assert (runs / name / "eval" / "test-full-beam20-vocab" / "metrics.json").is_file()


def script(folder: Path, name: str, *arguments: object, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the examples; `first` is a folder where commands are looked for before all others."""
    path = os.pathsep.join(
        [*([] if first is None else [str(first)]), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    command = ["bash", EXAMPLES / name, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False)
