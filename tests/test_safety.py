"""Nothing of the user's is deleted: names are names, foreign folders stay, a finished run outlives its successor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_LM, Finished, tree

from ilrec_cli import artifacts, cli, folders
from ilrec_cli.errors import UserError

Run = Callable[..., Finished]
SFT = ["--method", "sft", *TINY_LM, "--max-steps", "2"]
COMMANDS = {"build-ids": [], "train-cf": ["--epochs", "1"], "train": SFT}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["..", ".", "../data", "a/b", "/tmp", " x", ".hidden", "a\\b"])
def test_names_are_no_paths(command: str, name: str, own_world: Path, ilrec: Run) -> None:
    before = tree(own_world)
    line = ilrec(
        command, "--dataset", "toy", "--work", own_world, "--name", name, *COMMANDS[command], "--overwrite"
    ).one_line()
    assert "expected a plain name" in line
    assert tree(own_world) == before


def test_a_folder_that_ilrec_did_not_make_is_not_replaced(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    raw = tmp_path / "work" / "Toys" / "data"
    raw.mkdir(parents=True)
    rows = [
        {"reviewerID": f"u{u}", "asin": f"i{i}", "overall": 5.0, "unixReviewTime": i}
        for u in range(6)
        for i in range(6)
    ]
    (raw / "Toys.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = ilrec("preprocess", "--dataset", "Toys", "--work", tmp_path / "work", "--raw-dir", raw).one_line()
    assert "was not made by ilrec" in line
    assert (raw / "Toys.json").is_file()
    for command, place in (("build-ids", "ids/mine"), ("train-cf", "cf/mine/train"), ("train", "runs/mine")):
        note = own_world / "toy" / place / "note.txt"
        note.parent.mkdir(parents=True)
        note.write_text("keep me")
        line = ilrec(
            command, "--dataset", "toy", "--work", own_world, "--name", "mine", *COMMANDS[command], "--overwrite"
        ).one_line()
        assert "was not made by ilrec" in line
        assert note.read_text() == "keep me"


def test_another_kind_of_artifact_is_not_replaced(tmp_path: Path) -> None:
    with artifacts.create(tmp_path / "x", kind="ids", config={}, seed=0, parents={}):
        pass
    with (
        pytest.raises(UserError, match="holds item identifiers, not preprocessed data"),
        artifacts.create(tmp_path / "x", kind="data", config={}, seed=0, parents={}),
    ):
        pass


def test_identifiers_with_other_settings_need_overwrite(own_world: Path, ilrec: Run) -> None:
    common = ["build-ids", "--dataset", "toy", "--work", own_world, "--name", "text"]
    assert ilrec(*common, "-o", "codes=16").code == 0, "the same again is fine"
    assert "--overwrite" in ilrec(*common, "-o", "codes=8").one_line()
    assert ilrec(*common, "-o", "codes=8", "--overwrite").code == 0


def test_new_data_name_what_they_leave_behind(own_world: Path, ilrec: Run) -> None:
    common = [
        "preprocess",
        "--dataset",
        "toy",
        "--work",
        own_world,
        "--source",
        "synthetic",
        "--user-k",
        "4",
        "--item-k",
        "1",
    ]
    assert "another version" not in ilrec(*common, "-o", "users=120").err
    line = ilrec(*common, "-o", "users=119").err
    assert "will be refused" in line
    assert {"popularity", "sasrec", "text"} <= set(line.split(": ")[-1].strip().split(", "))
    assert ilrec(*common, "-o", "users=120").code == 0
    assert ilrec("evaluate", "--dataset", "toy", "--work", own_world, "--run", "sasrec").code == 0, (
        "the same data, the same digest"
    )


def digest(work: Path, name: str) -> str:
    return artifacts.read(work / "toy" / "runs" / name / "train", "run").digest


def test_a_finished_run_outlives_a_successor_that_fails(own_world: Path, ilrec: Run) -> None:
    common = ["train", "--dataset", "toy", "--work", own_world, "--name", "kept", *SFT]
    assert ilrec(*common).code == 0
    ilrec("evaluate", "--dataset", "toy", "--work", own_world, "--run", "kept", "--limit-users", "3")
    before, files = digest(own_world, "kept"), tree(own_world)
    assert ilrec(*common, "--overwrite", "--learning-rate", "1e30", "--warmup", "0", "--clip", "1e30").code == 2
    assert digest(own_world, "kept") == before
    assert tree(own_world) == files, "evaluations too"
    assert ilrec(*common, "--overwrite", "--seed", "3").code == 0
    assert digest(own_world, "kept") != before
    assert not [name for name in tree(own_world) if ".old" in name]


def test_a_finished_run_is_kept_while_its_successor_is_unfinished(
    own_world: Path, monkeypatch: pytest.MonkeyPatch, ilrec: Run
) -> None:
    common = ["train", "--dataset", "toy", "--work", own_world, "--name", "kept", *SFT]
    assert ilrec(*common).code == 0
    before = digest(own_world, "kept")
    monkeypatch.setattr(
        "ilrec_cli.stages._run_folder.finish", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    assert "cannot write" in ilrec(*common, "--overwrite", "--seed", "3").one_line()
    monkeypatch.undo()
    kept = own_world / "toy" / "runs" / ".kept.old" / "train"
    assert artifacts.read(kept, "run").digest == before
    assert ilrec(*common, "--seed", "3", "--resume").code == 0
    assert digest(own_world, "kept") != before
    assert not kept.exists()


def test_a_run_cannot_be_trained_twice_at_a_time(own_world: Path, ilrec: Run) -> None:
    run = own_world / "toy" / "runs" / "busy"
    (run / "train").mkdir(parents=True)
    (run / "train" / "config.yaml").touch()
    code = f"from pathlib import Path; from ilrec_cli.folders import locked\nwith locked(Path({str(run)!r}), wait=False):\n print('held', flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    line = ilrec("train", "--dataset", "toy", "--work", own_world, "--name", "busy", *SFT).one_line()
    assert "another process is training this run" in line
    other.communicate("\n")
    assert ilrec("train", "--dataset", "toy", "--work", own_world, "--name", "busy", *SFT).code == 0


def test_locks_are_free_again_when_their_holder_is_gone(tmp_path: Path) -> None:
    with folders.locked(tmp_path, wait=False) as first, folders.locked(tmp_path, wait=False) as second:
        assert (first, second) == (True, False)
    with folders.locked(tmp_path, wait=False) as again:
        assert again


def test_data_without_test_users_are_refused_before_training(tmp_path: Path, ilrec: Run) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "d.inter.json").write_text(json.dumps({str(user): [user, user + 1] for user in range(5)}))
    common = ["--dataset", "d", "--work", tmp_path / "work"]
    assert "5 users have no test target" in ilrec("preprocess", *common, "--raw-dir", raw).out
    assert "there is no valid target" in ilrec("train-cf", *common).one_line()
    assert not (tmp_path / "work" / "d" / "cf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss-chunk", "-1"], "loss_chunk is -1"),
        (["--weight-decay", "-1"], "weight_decay is -1"),
        (["--lora-dropout", "2"], "lora_dropout is 2"),
        (["--device", "cuda:x"], "expected auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:²"], "expected auto, cpu, cuda or cuda:N"),  # isdigit() says yes, int() does not
        (["--device", "cuda:99"], "has 0 GPUs"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_settings_that_would_crash_are_refused(arguments: list[str], message: str, own_world: Path, ilrec: Run) -> None:
    before = tree(own_world)
    assert message in ilrec("train", "--dataset", "toy", "--work", own_world, *SFT, *arguments).one_line()
    assert tree(own_world) == before


def test_negatives_of_the_trie_need_no_collaborative_model(own_world: Path, ilrec: Run) -> None:
    options = ["-o", "negatives_scope=trie", "-o", "mu_crr=0"]
    result = ilrec(
        "train", "--dataset", "toy", "--work", own_world, "--name", "trie", *TINY_LM, "--max-steps", "2", *options
    )
    assert result.code == 0, result.err
    assert "cf" not in artifacts.read(own_world / "toy" / "runs" / "trie" / "train", "run").manifest["parents"]


def test_number_formats_are_evaluated_apart(trained: Path, ilrec: Run) -> None:
    common = ["evaluate", "--dataset", "toy", "--work", trained, "--run", "sft", "--limit-users", "4"]
    for dtype in ("bfloat16", "float32"):
        assert "events in" in ilrec(*common, "--dtype", dtype).out
    folder = trained / "toy" / "runs" / "sft" / "eval"
    protocols = {
        path.name: artifacts.read(path, "eval").json("metrics.json")["protocol"]["dtype"]
        for path in folder.glob("*n4*")
    }
    assert protocols == {"test-full-beam20-vocab-n4-s0": "float32", "test-full-beam20-vocab-bfloat16-n4-s0": "bfloat16"}


def test_the_commands_seed_draws_the_synthetic_world(tmp_path: Path) -> None:
    digests = {
        seed: cli.invoke(["preprocess", "--dataset", f"d{seed}", "--work", str(tmp_path), "--source", "synthetic", "-o", "users=60", "--item-k", "1", "--user-k", "3", "--seed", seed, "--quiet"])["digest"]
        for seed in ("0", "1")
    }  # fmt: skip
    assert digests["0"] != digests["1"]
