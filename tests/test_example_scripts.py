"""The scripts in examples/ run, and the configurations are valid."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_LM, Finished, instruments_folder
from said_folder import raw_folder

from ilrec_cli import cli, config, settings

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_are_valid(path: Path) -> None:
    config.build(settings.Train, config.read_yaml(path), path.name)


def test_the_script_chains_the_stages(tmp_path: Path) -> None:
    raw = instruments_folder(tmp_path / "raw")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["bash", EXAMPLES / "instruments.sh", raw, "--max-steps", "2", "--limit-users", "50"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ilrec-work" / "Instruments" / "report.html").is_file()
    assert "ilrec" in done.stdout


def noted(folder: Path, name: str, *arguments: object) -> list[list[str]]:
    """A script's commands, noted by a stand-in for `ilrec`, to be run here: a process for each would take a minute."""
    notes, stand_in = folder / "bin" / "noted", folder / "bin" / "ilrec"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/usr/bin/env bash\nprintf '%s\\t' \"$@\" >> {notes}; echo >> {notes}\n")
    stand_in.chmod(0o755)
    environment = os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", EXAMPLES / name, *map(str, arguments)], env=environment, check=True)
    return [line.rstrip("\t").split("\t") for line in notes.read_text().splitlines()]


def test_all_tasks_of_lc_rec_at_toy_size(
    tmp_path: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--max-steps", "2", "--limit-users", "50", "--epochs", "1"]
    commands = noted(tmp_path, "lcrec.sh", raw_folder(tmp_path / "raw"), *small)
    assert len(commands) == 7
    monkeypatch.chdir(tmp_path)
    for command in commands:
        done = ilrec(*command, *(TINY_LM if command[0] == "train" else []))
        assert done.code == 0, (command, done.err)
        if command[0] == "train":
            assert "examples an epoch: next_item" in done.out
            assert "item_search" in done.out
    for name in ("lcrec-sft", "lcrec-ilrec"):
        assert (Path("ilrec-work/Instruments/runs") / name / "eval/test-full-beam20-vocab/metrics.json").is_file()


def test_titles_are_written_grounded_and_searched(
    tmp_path: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = instruments_folder(tmp_path / "raw", users=60)
    index = json.loads((raw / "Instruments.index.json").read_text())
    titles = {item: {"title": f"Drum {int(item) % 7} for {'stage' if int(item) % 2 else 'home'}"} for item in index}
    (raw / "Instruments.item.json").write_text(json.dumps(titles))
    commands = noted(tmp_path, "bigrec.sh", raw, "Instruments", "--max-steps", "2", "--limit-users", "20")
    assert len(commands) == 12
    monkeypatch.chdir(tmp_path)
    for command in commands:
        done = ilrec(*command)
        assert done.code == 0, (command, done.err)
    made = sorted(path.name for path in (tmp_path / "ilrec-work/Instruments/runs/bigrec-ilrec/eval").glob("test-*"))
    assert made == [
        "test-full-beam20-vocab", "test-full-beam20-vocab-cf0.5-sasrec", "test-full-free-beam4-titles-tfidf",
        "test-full-free-beam4-titles-tfidf-cf-sasrec-gauto",
    ]  # fmt: skip


def test_candidates_are_ranked_and_written(
    tmp_path: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script's commands on rows like LastFM's, noted by a stand-in for `ilrec` and run here."""
    raw, names = tmp_path / "raw", [f"Artist {number}" for number in range(40)]
    raw.mkdir()
    for split, count in (("val", 40), ("test", 12)):
        rows = [{"historyList": "::".join(names[step : step + 3]), "itemList": names[step + 3 : step + 23],
                 "trueSelection": names[step + 3]} for step in (number % 17 for number in range(count))]  # fmt: skip
        (raw / f"lastfm-{split}.json").write_text(json.dumps(rows))
    noted = tmp_path / "bin" / "noted"
    noted.parent.mkdir()
    (noted.parent / "ilrec").write_text(f"#!/usr/bin/env bash\nprintf '%s\\t' \"$@\" >> {noted}; echo >> {noted}\n")
    (noted.parent / "ilrec").chmod(0o755)
    script = ["bash", EXAMPLES / "candidates.sh", raw, "--max-steps", "2", "--hidden-size", "16", "--n-layers", "3"]
    subprocess.run(script, env=os.environ | {"PATH": f"{noted.parent}:{os.environ['PATH']}"}, check=True)
    commands = [line.rstrip("\t").split("\t") for line in noted.read_text().splitlines()]
    assert len(commands) == 8
    monkeypatch.chdir(tmp_path)
    for command in commands:
        done = ilrec(*command)
        assert done.code == 0, (command, done.err)
    made = sorted(path.name for path in (tmp_path / "ilrec-work/lastfm/runs/ilrec/eval").glob("[!.]*"))
    assert made == ["test-cand20-names", "test-cand20-sum-vocab"]


def launched() -> list[list[str]]:
    """The commands for larger machines in the heads of the scripts."""
    found = []
    for script in sorted(EXAMPLES.glob("*.sh")):
        head = "\n".join(line[4:] for line in script.read_text().splitlines() if line.startswith("#   "))
        for line in head.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            if words[0] == "accelerate":
                assert words[1:3] == ["launch", "--config_file"]
                assert (EXAMPLES.parent / words[3]).is_file()
                assert words[4:6] == ["-m", "ilrec_cli"]
                words = words[5:]
            found.append([script.name, *words[1:]])
    return found


def test_the_commands_for_larger_machines_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one is read as the command line reads it, presets and all; nothing is run."""
    from ilrec_cli.stages import evaluate, train

    seen: list[Any] = []

    def note(config: Any) -> dict[str, Any]:
        seen.append(config)
        return {}

    for stage in (train, evaluate):
        monkeypatch.setattr(stage, "run", note)
    commands = launched()
    for command in commands:
        cli.invoke(command[1:])
    for script in ("bigrec.sh", "candidates.sh", "lcrec.sh"):
        mine = [config for command, config in zip(commands, seen, strict=True) if command[0] == script]
        assert [type(config).__name__ for config in mine] == ["Train", "Evaluate"] * 2, "8 x 40 GB, 1 x 24 GB"
