"""Every mistake that the pipeline's users make: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_LM, Finished, tree

from ilrec_cli import artifacts, cli

Run = Callable[..., Finished]


@pytest.mark.parametrize("command", ["build-ids", "train-cf", "train", "evaluate", "report"])
def test_stages_without_their_inputs_name_the_command_to_run(command: str, tmp_path: Path, ilrec: Run) -> None:
    assert "Run: ilrec preprocess --dataset Toys" in ilrec(command, "--dataset", "Toys", "--work", tmp_path).one_line()


def test_a_near_miss_of_a_dataset_is_named(world: Path, ilrec: Run) -> None:
    assert "Did you mean 'toy'?" in ilrec("train", "--dataset", "toi", "--work", world).one_line()


def another_world(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    common = ["--dataset", "toy", "--work", str(work), "--quiet"]
    source = ["--source", "synthetic", "-o", "users=90", "--user-k", "4", "--item-k", "1"]
    cli.invoke(["preprocess", *common, *source])
    cli.invoke(["build-ids", *common, "--name", "text", "-o", "codes=16"])
    cli.invoke(["train-cf", *common, "--name", "sasrec", "--epochs", "1", "-o", "hidden_size=16"])
    return work


def test_parents_of_another_version_are_refused_by_name(tmp_path: Path, ilrec: Run) -> None:
    work = another_world(tmp_path)
    old = artifacts.read(work / "toy" / "data", "data").digest[:8]
    cli.invoke(
        [
            "train",
            "--dataset",
            "toy",
            "--work",
            str(work),
            "--quiet",
            "--method",
            "sft",
            "--name",
            "sft",
            *TINY_LM,
            "--max-steps",
            "1",
        ]
    )
    cli.invoke(
        [
            "preprocess",
            "--dataset",
            "toy",
            "--work",
            str(work),
            "--quiet",
            "--source",
            "synthetic",
            "-o",
            "users=91",
            "--user-k",
            "4",
            "--item-k",
            "1",
        ]
    )
    new = artifacts.read(work / "toy" / "data", "data").digest[:8]
    train = ilrec("train", "--dataset", "toy", "--work", work, *TINY_LM).one_line()
    evaluate = ilrec("evaluate", "--dataset", "toy", "--work", work, "--run", "sft").one_line()
    recommend = ilrec(
        "recommend", "--dataset", "toy", "--work", work, "--run", "sft", "--user", "A00001HOBBY"
    ).one_line()
    for line in (train, evaluate, recommend):
        assert old in line
        assert new in line
    assert "item identifiers 'text'" in train
    assert "training run 'sft'" in evaluate


def test_inputs_that_are_not_unique_are_asked_for(tmp_path: Path, ilrec: Run) -> None:
    work = another_world(tmp_path)
    common = ["--dataset", "toy", "--work", work]

    def other(codes: int) -> None:
        made = ilrec("build-ids", *common, "--name", "other", "-o", f"codes={codes}", "--overwrite")
        assert made.code == 0, made.err

    other(8)
    line = ilrec("train", *common, *TINY_LM).one_line()
    assert "holds several: other, text" in line
    assert "--ids" in line
    assert "no item identifiers 'txt'" in ilrec("train", *common, "--ids", "txt", *TINY_LM).one_line()
    other(9)
    sft = ["--method", "sft", "--ids", "other", "--name", "sft", *TINY_LM, "--max-steps", "1"]
    assert ilrec("train", *common, *sft).code == 0
    other(10)
    assert "no longer holds" in ilrec("evaluate", *common, "--run", "sft").one_line()


def test_a_model_without_the_tokens(trained: Path) -> None:
    from ilrec_cli.errors import UserError
    from ilrec_cli.lm import tokenizer
    from ilrec_cli.stages import _models

    ids = artifacts.read(trained / "toy" / "ids" / "text", "ids")
    with pytest.raises(UserError, match=r"the model does not have \d+ of the tokens of 'text', such as <a_"):
        _models.catalogue(ids, tokenizer.train(["text"], 300, adds_bos=True))


@pytest.mark.parametrize("layers", ["consecutive:3", "-3", "0"])
def test_layers_that_do_not_exist(layers: str, world: Path, ilrec: Run) -> None:
    before = tree(world)
    line = ilrec(
        "train", "--dataset", "toy", "--work", world, "--name", "bad", *TINY_LM, "-o", f"layers={layers}"
    ).one_line()
    assert "the model has 3 layers" in line
    assert tree(world) == before


def test_history_items_and_users_that_do_not_exist(trained: Path, ilrec: Run) -> None:
    common = ["recommend", "--dataset", "toy", "--work", trained, "--run", "sft"]
    item = artifacts.read(trained / "toy" / "data", "data").table("items")["raw_id"][0].as_py()
    line = ilrec(*common, "--history", f"{item},{item}X").one_line()
    assert f"item '{item}X' is not among the" in line
    assert f"Did you mean '{item}'?" in line
    assert "user 'nobody' is not among the" in ilrec(*common, "--user", "nobody").one_line()
    assert "no training run 'stf'" in ilrec(*common[:-1], "stf", "--user", "A00001HOBBY").one_line()


@pytest.mark.parametrize(
    "flags",
    [
        ("recommend", "--user", "x", "--k", "9" * 5000),
        ("recommend", "--user", "x", "--k", "9" * 4300),
        ("recommend", "--user", "x", "--k", "-" + "9" * 4000),
        ("recommend", "--user", "x", "--k", "k" * 5000),
        ("evaluate", "--device", "cuda:²"),
        ("evaluate", "--exit-layer", "²"),
        ("evaluate", "--exit-layer", "9" * 5000),
        ("evaluate", "--limit-users", "9" * 400),
        ("evaluate", "--ks", "1," + "9" * 400),
        ("compare", "sft", "ilrec", "--metrics", "hit@²"),
        ("compare", "sft", "ilrec", "--metrics", "hit@" + "9" * 5000),
    ],
)
def test_numbers_that_are_none_or_too_long_are_not_repeated(flags: tuple[str, ...], trained: Path, ilrec: Run) -> None:
    line = ilrec(*flags, "--dataset", "toy", "--work", trained).one_line()
    assert len(line.replace(str(trained), "")) < 350
    assert flags[-2].lstrip("-").replace("-", "_") in line.replace("-", "_")


def test_numbers_in_a_file_of_settings(trained: Path, tmp_path: Path, ilrec: Run) -> None:
    (tmp_path / "huge.yaml").write_text(f"k: {'9' * 5000}\n")
    line = ilrec("recommend", "--dataset", "toy", "--config", tmp_path / "huge.yaml", "--user", "x").one_line()
    assert "not valid YAML" in line


@pytest.mark.parametrize("backbone", ["./no/such/folder", "nobody/no-such-model"])
def test_backbones_that_cannot_be_had(backbone: str, world: Path, ilrec: Run) -> None:
    before = tree(world)
    line = ilrec("train", "--dataset", "toy", "--work", world, "--method", "sft", "--backbone", backbone).one_line()
    assert f"backbone '{backbone}'" in line
    assert tree(world) == before


def test_a_device_that_is_not_there(world: Path, ilrec: Run) -> None:
    import torch

    name = "mps" if torch.cuda.is_available() else "cuda"
    assert (
        f"--device {name}"
        in ilrec(
            "evaluate",
            "--dataset",
            "toy",
            "--work",
            world,
            "--run",
            "sasrec",
            "--split",
            "valid",
            "--limit-users",
            "3",
            "--device",
            name,
        ).one_line()
    )
    assert (
        "expected auto, cpu"
        in ilrec("train-cf", "--dataset", "toy", "--work", world, "--name", "x", "--device", "tpu").one_line()
    )


def limited(arguments: list[str], bytes_: int) -> subprocess.CompletedProcess[str]:
    """A command in a process that cannot write files larger than this."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "ilrec_cli", *arguments],
        text=True,
        capture_output=True,
        preexec_fn=limit,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [
        ["preprocess", "--source", "synthetic", "-o", "users=300"],
        ["build-ids", "--name", "large", "--vector-size", "40"],
        ["train-cf", "--name", "large", "--epochs", "1"],
        ["train", "--name", "large", "--method", "sft", *TINY_LM, "--max-steps", "2"],
    ],
    ids=lambda command: command[0],
)
def test_a_disk_that_fills(command: list[str], tmp_path: Path) -> None:
    work = another_world(tmp_path)
    before = tree(work)
    digest = artifacts.read(work / "toy" / "data", "data").digest
    result = limited([command[0], "--dataset", "toy", "--work", str(work), *command[1:]], 6_000)
    assert result.returncode == 2, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "cannot write" in errors[0]
    assert "File too large" in errors[0]
    assert "Traceback" not in result.stderr
    assert tree(work) == before, "nothing half-written, nothing lost"
    assert artifacts.read(work / "toy" / "data", "data").digest == digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weight-decay", "nan"], "weight_decay is nan, expected a finite number"),
        (["--learning-rate", "inf"], "learning_rate is inf, expected a finite number"),
        (["-o", "beta=inf"], "beta is inf, expected a finite number"),
        (["--backbone", "tiny-lama"], "unknown backbone 'tiny-lama'; from scratch there are tiny-llama, tiny-qwen2"),
        (["--n-layers", "1"], "the model has 1 layer; ILRec needs at least 2"),
        (["--resume", "--name", "nope"], "there is no checkpoint"),
        (["--method", "sft", "-o", "alpha=1"], "unknown setting 'alpha'. It has none"),
    ],
)
def test_refused_trainings_leave_nothing(arguments: list[str], message: str, own_world: Path, ilrec: Run) -> None:
    before = tree(own_world)
    line = ilrec("train", "--dataset", "toy", "--work", own_world, *TINY_LM, "--max-steps", "1", *arguments).one_line()
    assert message in line
    assert tree(own_world) == before


@pytest.mark.parametrize("flags", [["--seed", "-1"], ["--limit-users", "0"], ["--max-steps", "-1"]])
def test_the_demo_checks_its_settings_first(flags: list[str], tmp_path: Path, ilrec: Run) -> None:
    assert "expected at least" in ilrec("demo", "--work", tmp_path / "demo", *flags).one_line()
    assert not (tmp_path / "demo").exists()


def test_next_commands_name_the_work_folder(own_world: Path, ilrec: Run) -> None:
    done = ilrec("train-cf", "--dataset", "toy", "--work", own_world, "--model", "popularity")
    assert f"Next: ilrec train --dataset toy --work {own_world}" in done.out
    assert (
        f"Run: ilrec preprocess --dataset no --work {own_world}"
        in ilrec("train", "--dataset", "no", "--work", own_world).one_line()
    )


def test_data_and_models_can_be_named_by_path(trained: Path, tmp_path: Path, ilrec: Run) -> None:
    """Also where a dataset is called cf, which is the name of a folder inside."""
    import shutil

    work = tmp_path / "work"
    shutil.copytree(trained / "toy", work / "cf")
    shutil.move(work / "cf" / "data", tmp_path / "data")
    common = ["--dataset", "cf", "--work", work, "--data", tmp_path / "data"]
    assert ilrec("recommend", *common, "--run", work / "cf" / "runs" / "sft", "--user", "A00001HOBBY").code == 0
    assert "no preprocessed data" in ilrec("recommend", *common[:4], "--user", "A00001HOBBY").one_line()


def test_a_year_is_a_name_in_yaml(tmp_path: Path, ilrec: Run) -> None:
    (tmp_path / "c.yaml").write_text(
        f"dataset: 2018\nsource: synthetic\nwork: {tmp_path / 'w'}\nuser_k: 2\nitem_k: 1\noptions: {{users: 60}}\n"
    )
    assert ilrec("preprocess", "--config", tmp_path / "c.yaml").code == 0
    assert (tmp_path / "w" / "2018" / "data").is_dir()
