"""`reproduce`: what is shared is made once, cells resume, one failure leaves the rest, plans are what is run."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from reproducing import Shop, commands, grid, read, settings

from ilrec_cli import cli
from ilrec_cli.settings import Reproduce
from ilrec_cli.stages import _cells, _hours, _ids_folder, reproduce


def test_what_cells_share_is_made_once_and_a_second_call_makes_nothing(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3")
    reproduce.run(config, shop)
    rows = len(grid("table3", config).grid["rows"])
    assert len(commands(shop, "preprocess")) == len(commands(shop, "train-cf")) == 1
    assert len(commands(shop, "build-ids")) == 3  # codes, titles, the encoder that grounds texts
    assert len(commands(shop, "train")) == len(commands(shop, "evaluate")) == 2 * rows
    shop.asked.clear()
    reproduce.run(config, shop)
    assert not shop.asked


def test_tables_share_runs_and_children_start_from_one_run(tmp_path: Path) -> None:
    shop = Shop()
    reproduce.run(settings(tmp_path, "table1", "table3", "table10"), shop)
    trained = [argv[argv.index("--name") + 1] for argv in commands(shop, "train")]
    assert len(set(trained)) == len(trained)
    starts = [argv[argv.index("--from") + 1] for argv in commands(shop, "train") if "--from" in argv]
    assert len(starts) == 6
    assert len(set(starts)) == 2  # one for each paradigm
    assert all("sft" in name and name in trained for name in starts)


def test_a_killed_call_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3")
    shop.broken, shop.error = r"evaluate .*lc-rec-ilrec", KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        reproduce.run(config, shop)
    before = [shlex.join(argv) for argv in shop.asked[:-1]]
    shop.asked.clear()
    shop.broken = ""
    result = reproduce.run(config, shop)
    after = [shlex.join(argv) for argv in shop.asked]
    assert not set(before) & set(after)
    assert not result["failed"]
    assert len(list((tmp_path / "reproduce" / "table3-tiny" / "cells").iterdir())) == 18


def test_an_unfinished_training_is_resumed(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3", rows=("SFT",))
    cell = grid("table3", config).cells[0]
    checkpoint = tmp_path / str(cell.steps[-2].output) / "checkpoints" / "last.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    reproduce.run(config, shop)
    asked = {argv[argv.index("--name") + 1]: argv for argv in commands(shop, "train")}
    assert "--resume" in asked[cell.steps[-2].name]
    assert all("--resume" not in argv for name, argv in asked.items() if name != cell.steps[-2].name)


def test_one_failure_leaves_the_others_going(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3")
    shop.broken = r"train .*table3-wo-cpd .*codes-"
    result = reproduce.run(config, shop)
    assert result["failed"] == ["table3: lc-rec-wo-cpd-shop-s0"]
    found = json.loads((tmp_path / "reproduce" / "table3-tiny" / "results.json").read_text())
    assert found["done"] == 17
    (why,) = found["failed"].values()
    log = Path(re.search(r"log: (.*)\)", why)[1])  # type: ignore[index]
    assert "RuntimeError: out of memory" in log.read_text()
    shop.broken = ""
    shop.asked.clear()
    assert not reproduce.run(config, shop)["failed"]
    assert [argv[0] for argv in shop.asked] == ["train", "evaluate"]


def test_what_a_broken_start_would_carry_is_not_tried_again(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table5")
    shop.broken = r"train .*--method sft"
    result = reproduce.run(config, shop)
    assert len(result["failed"]) == 3  # ILRec starts from nothing
    assert len([argv for argv in commands(shop, "train") if "sft" in argv]) == 1


def test_the_command_ends_with_1_when_a_cell_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    monkeypatch.setattr(cli, "invoke", shop)
    argv = ["reproduce", "table3", "--work", str(tmp_path), "--quiet"]
    shop.broken = "evaluate .*lc-rec-sft"
    assert cli._guarded(argv) == 1
    shop.broken = ""
    assert cli._guarded(argv) == 0


def test_cells_made_from_other_data_are_made_again(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3", rows=("SFT",))
    reproduce.run(config, shop)
    shop.version = 1
    shop(["preprocess", "--dataset", "Shop", "--work", str(tmp_path)])
    shop.asked.clear()
    reproduce.run(config, shop)
    assert [argv[0] for argv in shop.asked].count("evaluate") == 2
    assert all("--overwrite" in argv for argv in commands(shop, "train") + commands(shop, "build-ids"))


def test_the_plan_lists_the_commands_that_run_and_runs_none(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table1")
    plan = reproduce.run(settings(tmp_path, "table1", dry_run=True), shop)["plan"]["table1"]
    assert not shop.asked
    assert set(plan["cells"].values()) == {"missing"}
    reproduce.run(config, shop)
    planned = [shlex.split(line)[1:] for line in plan["commands"]]
    assert sorted(planned) == sorted(shop.asked)
    again = reproduce.run(settings(tmp_path, "table1", dry_run=True), shop)["plan"]["table1"]
    assert set(again["cells"].values()) == {"done"}
    assert again["commands"] == []
    assert again["hours"] == 0


def test_hours_are_measured_where_a_cell_of_the_kind_is_finished(tmp_path: Path) -> None:
    table = grid("table3", settings(tmp_path, "table3"))
    train = next(step for step in table.cells[0].steps if step.argv[0] == "train")
    assert _hours.of(train, table.scale, _hours.measured(tmp_path)) == (table.scale["hours"]["train"], True)
    for number, seconds in enumerate((3600, 7200, 36000)):
        cells = tmp_path / "reproduce" / "table3-tiny" / "cells"
        cells.mkdir(parents=True, exist_ok=True)
        (cells / f"{number}.json").write_text(json.dumps({"seconds": {train.kind: seconds}}))
    assert _hours.of(train, table.scale, _hours.measured(tmp_path)) == (2.0, False)


def test_commands_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's command line; the last line of JSON counts; failures and Ctrl-C are told apart."""
    log, asked, code = tmp_path / "log", list[list[str]](), 0
    output = '{"step": 1}\nnoise\n{"events": 3}\nmore noise\n'

    class Process:
        def __init__(self, argv: list[str], stdout: Any, stderr: Any):
            asked.append(argv[1:])
            stdout.write(output)

        def wait(self) -> int:
            return code

    monkeypatch.setattr(_cells.subprocess, "Popen", Process)
    launch = ["accelerate", "launch", "--num_processes", "8", "-m", "ilrec_cli"]
    run = _cells.isolated(launch)
    assert run(["train", "--seed", "0"], log) == {"events": 3}
    run(["preprocess"], log)
    assert asked == [
        ["-m", "accelerate.commands.launch", *launch[2:], "train", "--seed", "0", "--json"],
        ["-m", "ilrec_cli", "preprocess", "--json"],
    ]
    code = 2
    with pytest.raises(_cells.CellError, match="exit code 2: more noise"):
        run(["train"], log)
    output = "error: no item identifiers\nCalledProcessError: Command returned 2\n"
    with pytest.raises(_cells.CellError, match="exit code 2: no item identifiers"):
        run(["train"], log)
    code, output = 130, ""
    with pytest.raises(KeyboardInterrupt):
        run(["train"], log)


def test_a_command_that_is_asked_to_stop_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does then, a step and a checkpoint of a large model, may take longer than the quarter of a second that
    `subprocess.run` leaves it."""
    script = (
        "import pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "def save(*_):\n    time.sleep(0.6)\n    (folder / 'saved').touch()\n    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "(folder / 'began').touch()\n"
        "time.sleep(20)\n"
    )
    popen = subprocess.Popen

    def process(argv: list[str], **files: Any) -> Any:
        return popen([sys.executable, "-c", script, str(tmp_path)], **files)

    def interrupt() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_cells.subprocess, "Popen", process)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have SIGINT ignored
    try:
        Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            _cells.isolated([])(["train"], tmp_path / "log")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").exists()


def test_mistakes_are_one_line(tmp_path: Path, ilrec: Any) -> None:
    assert "name a table" in ilrec("reproduce").one_line()
    assert "Did you mean 'table3'" in ilrec("reproduce", "tabel3", "--work", tmp_path).one_line()
    assert "has no row" in ilrec("reproduce", "table3", "--rows", "nonsense", "--work", tmp_path).one_line()
    assert not list(tmp_path.iterdir())


def test_a_damaged_cell_is_made_again(tmp_path: Path) -> None:
    shop, config = Shop(), settings(tmp_path, "table3", rows=("SFT",))
    reproduce.run(config, shop)
    path = next((tmp_path / "reproduce" / "table3-tiny" / "cells").iterdir())
    path.write_text(path.read_text()[:50])
    shop.asked.clear()
    reproduce.run(config, shop)
    assert [argv[0] for argv in shop.asked] == ["evaluate"]
    assert read(path)["version"] == _cells.VERSION


def test_a_build_of_identifiers_that_was_killed_is_resumed(tmp_path: Path) -> None:
    """An RQ-VAE takes an hour; `build-ids` refuses to start again unasked."""
    shop, config = Shop(), settings(tmp_path, "table3", rows=("SFT",))
    step = next(step for step in grid("table3", config).cells[0].steps if step.argv[0] == "build-ids")
    kept = _ids_folder.checkpoints(tmp_path / str(step.output))
    kept.mkdir(parents=True)
    (kept / "last.safetensors").write_bytes(b"")
    reproduce.run(config, shop)
    asked = {argv[argv.index("--name") + 1]: argv for argv in commands(shop, "build-ids")}
    assert [name for name, argv in asked.items() if "--resume" in argv] == [step.name]


def test_the_next_command_has_what_this_one_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop()
    shop.broken = "evaluate .*lc-rec-ilrec"
    given = {"dataset": "toy", "titled": "Office", "seeds": (3,), "rows": ("ILRec",)}
    reproduce.run(Reproduce(tables=("table3",), work=tmp_path, **given), shop)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: "))
    command = line.removeprefix("Next: ilrec reproduce ").partition("   (")[0]
    assert command == f"table3 --scale tiny --dataset toy --titled Office --seeds 3 --rows ILRec --work {tmp_path}"


def test_the_plan_says_rough_only_of_what_was_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop, config = Shop(), Reproduce(tables=("table4",), work=tmp_path, dry_run=True)
    reproduce.run(config, shop)
    assert "(rough): no finished cell" in capsys.readouterr().out
    reproduce.run(settings(tmp_path, "table4"), shop)
    reproduce.run(config, shop)
    assert "(rough)" not in capsys.readouterr().out
