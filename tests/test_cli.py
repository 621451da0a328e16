"""The command line as its users meet it: help, flags, configuration files, JSON, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_LM, Finished

from ilrec_cli import __version__, cli, config, plugins

LISTINGS = ("methods", "datasets", "cf", "ids")


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        text=True,
        capture_output=True,
        cwd=cwd,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["methods"], ["methods", "ilrec"], ["cf"], ["--version"]]
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; from ilrec_cli.cli import _guarded; code = _guarded({arguments!r}); print(code, *sorted(sys.modules))"
    result = python("-c", code)
    found, *modules = result.stdout.splitlines()[-1].split()
    assert found == "0", result.stderr
    heavy = {"torch", "numpy", "polars", "pyarrow", "transformers", "pandas", "scipy", "sklearn", "faiss", "matplotlib"}
    assert not heavy & set(modules)


@pytest.mark.parametrize("command", [*cli.COMMANDS, *LISTINGS])
def test_every_command_has_help(command: str, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = ilrec(*command.split(), "--help")
    assert result.code == 0
    if command in cli.COMMANDS:
        for field in config.fields(cli.COMMANDS[command][0]):
            flag = "--option" if field.name == "options" else "--" + field.name.rstrip("_").replace("_", "-")
            assert field.positional or flag in result.out
        assert "Example: ilrec " in result.out


def test_help_shows_choices_and_defaults() -> None:
    text = python("-m", "ilrec_cli", "train", "--help").stdout
    for part in ("full|lora", "[0.01]", "[required]", "cosine|linear|constant", "2e-3 for tiny backbones"):
        assert part in text


@pytest.mark.parametrize("folder", LISTINGS)
def test_listings_name_every_plugin_and_its_options(folder: str, ilrec: Callable[..., Finished]) -> None:
    listing = ilrec(folder).out
    for name in plugins.names(folder):
        plugin = plugins.load(folder, name)
        assert name in listing
        shown = ilrec(folder, name)
        assert shown.code == 0
        for field in config.fields(plugin.Config):
            assert f"{field.name}=" in shown.out
            assert field.help in shown.out
    assert "choose from" in ilrec(folder, "nonsense").one_line()


def test_version_and_module_and_script_are_the_same() -> None:
    module = python("-m", "ilrec_cli", "--version")
    script = subprocess.run(
        [Path(sys.executable).parent / "ilrec", "--version"], text=True, capture_output=True, check=False
    )
    assert module.stdout == script.stdout == f"ilrec {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "--learning-rat", "1"], "--learning-rate"),
        (["train", "--dataset"], "requires an argument"),
        (["train"], "--dataset is missing"),
        (["train", "--dataset", "d", "--method", "ilrek"], "Did you mean 'ilrec'?"),
        (["train", "--dataset", "d", "--epochs", "many"], "epochs is 'many', expected int"),
        (["train", "--dataset", "d", "-o", "alhpa=1"], "Did you mean 'alpha'?"),
        (["train", "--dataset", "d", "-o", "alpha"], "expected key=value"),
        (
            ["train", "--dataset", "d", "-o", "kl=both"],
            "kl is 'both', expected one of student_teacher, teacher_student",
        ),
        (["train", "--dataset", "../d"], "expected a plain name"),
        (["methods", "ilrc"], "Did you mean 'ilrec'?"),
        (["recommend", "--dataset", "d"], "either --user ID or --history"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    arguments: list[str], message: str, ilrec: Callable[..., Finished]
) -> None:
    assert message in ilrec(*arguments).one_line()


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ilrec_cli.stages.doctor.run", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli._guarded(["doctor"])


@pytest.mark.parametrize("command", [["train", "--dataset", "d", "--epochs", "many"], ["runs", "ls", "--dataset", "."]])
def test_two_dashes_before_a_command_change_nothing(command: list[str], ilrec: Callable[..., Finished]) -> None:
    assert ilrec("--", *command).one_line() == ilrec(*command).one_line()


def test_dashes_and_underscores_in_flags_and_choices(tmp_path: Path, ilrec: Callable[..., Finished]) -> None:
    for flags in (["--limit-users", "30", "--user_k", "4"], ["--limit_users", "30", "--user-k", "4"]):
        result = ilrec(
            "preprocess",
            "--dataset",
            "d",
            "--work",
            tmp_path,
            "--source",
            "synthetic",
            "-o",
            "users=80",
            "--item-k",
            "1",
            *flags,
            "--json",
        )
        assert result.code == 0, result.err
        assert json.loads(result.out.splitlines()[-1])["users"] == 30


def test_a_switch_has_an_opposite_for_files_that_set_it(tmp_path: Path, ilrec: Callable[..., Finished]) -> None:
    file = tmp_path / "doctor.yaml"
    file.write_text("quiet: true\n")
    assert ilrec("doctor", "--config", file).out == ""
    assert "Python" in ilrec("doctor", "--config", file, "--no-quiet").out


def test_flags_win_over_the_file_and_the_resolved_configuration_is_saved(
    world: Path, tmp_path: Path, ilrec: Callable[..., Finished]
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("dataset: toy\nmethod: ilrec\nseed: 5\nlearning-rate: 3e-3\noptions: {alpha: 0.5, beta: 0.2}\n")
    result = ilrec("train", "--config", file, "--work", world, "--name", "configured", "--seed", "6", "-o", "alpha=0.9", *TINY_LM,
                   "--max-steps", "1", "--quiet", "--json")  # fmt: skip
    assert result.code == 0, result.err
    assert json.loads(result.out)["name"] == "configured"
    saved = config.read_yaml(world / "toy" / "runs" / "configured" / "train" / "config.yaml")
    assert (saved["seed"], saved["learning_rate"], saved["targets"]) == (6, 3e-3, "all")
    assert (saved["options"]["alpha"], saved["options"]["beta"], saved["options"]["mu_crr"]) == (0.9, 0.2, 0.01)
    assert (saved["ids"], saved["cf"]) == ("text", "sasrec")
    file.write_text("dataset: toy\nmetod: sft\n")
    assert "Did you mean 'method'?" in ilrec("train", "--config", file).one_line()


def test_quiet_says_nothing_and_json_is_the_last_line(world: Path, ilrec: Callable[..., Finished]) -> None:
    quiet = ilrec("doctor", "--quiet", "--work", world)
    assert (quiet.code, quiet.out) == (0, "")
    both = ilrec("doctor", "--json", "--work", world)
    checks = json.loads(both.out.splitlines()[-1])["checks"]
    assert {"Python", "torch (models)", "CPU cores"} <= {check["check"] for check in checks}
    assert all(check["state"].startswith(("ok", "optional")) for check in checks)


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, ilrec: Callable[..., Finished]) -> None:
    from ilrec_cli.stages import doctor

    monkeypatch.setitem(doctor.PACKAGES, "no-such-package", ("1", "nothing", None))
    monkeypatch.setitem(doctor.PACKAGES, "torch", ("99", "models", None))
    line = ilrec("doctor").one_line()
    assert "pip install no-such-package" in line
    assert "needs 99 or newer" in line


def test_a_command_inside_another_that_is_stopped_stops_both(monkeypatch: pytest.MonkeyPatch) -> None:
    from ilrec_cli.stages import doctor

    def stopped(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        cli.invoke(["doctor"])
    assert cli._guarded(["doctor"]) == 130


def test_memory_of_a_device_that_does_not_suffice_is_a_line(
    monkeypatch: pytest.MonkeyPatch, ilrec: Callable[..., Finished]
) -> None:
    import torch

    from ilrec_cli.stages import doctor

    def full(config: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(doctor, "run", full)
    assert "--micro-batch" in ilrec("doctor").one_line()
