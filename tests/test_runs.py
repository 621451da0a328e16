"""`ilrec runs`: what is listed, shown and told apart is what lies on the disk, and nothing that is needed is removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_LM, Finished, tree

from ilrec_cli import artifacts, cli, config, folders, provenance
from ilrec_cli.json_log import read_log

Run = Callable[..., Finished]


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A work folder of its own with the runs sft and ilrec and the models sasrec and popularity, sft evaluated."""
    work = tmp_path / "copy"
    keep = {"ids": ["text"], "cf": ["popularity", "sasrec"], "runs": ["ilrec", "sft"]}
    for folder, names in {".": ["data"], **keep}.items():
        for name in names:
            shutil.copytree(trained / "toy" / folder / name, work / "toy" / folder / name)
    for run in ("sft", "ilrec"):
        shutil.rmtree(work / "toy" / "runs" / run / "eval", ignore_errors=True)
    cli.invoke(["evaluate", "--dataset", "toy", "--work", str(work), "--quiet", "--run", "sft", "--beams", "10"])
    return work


def said(result: Finished) -> Any:
    assert result.code == 0, result.err
    return json.loads(result.out.splitlines()[-1])


def test_the_figures_are_those_of_the_weights_that_were_kept(copy: Path, ilrec: Run) -> None:
    """A higher validation whose weights were lost is not the run's."""
    log = copy / "toy" / "runs" / "sft" / "train" / "log.jsonl"
    lost = {"step": 1, "best": True, "valid_ndcg@10": 0.9, "valid_hit@10": 0.95}
    log.write_text(json.dumps(lost) + "\n" + log.read_text())
    kept = [row for row in read_log(log) if row.get("best")][-1]
    listed = {row["name"]: row for row in said(ilrec("runs", "ls", "--work", copy, "--json"))["runs"]}["sft"]
    assert listed["training"]["valid_ndcg@10"] == kept["valid_ndcg@10"] < 0.9
    assert listed["training"]["best_step"] == kept["step"]


def test_every_run_is_listed_with_what_its_files_say(copy: Path, ilrec: Run) -> None:
    unfinished = copy / "toy" / "runs" / "half" / "train"
    unfinished.mkdir(parents=True)
    (unfinished / "config.yaml").write_text("method: sft\nseed: 3\nids: text\n")
    (copy / "toy" / "runs" / "mine").mkdir()  # not ours
    with folders.locked(unfinished.parent, wait=False):
        locked = {row["name"]: row for row in said(ilrec("runs", "ls", "--work", copy, "--json"))["runs"]}
    result = ilrec("runs", "ls", "--work", copy, "--dataset", "toy", "--json")
    rows = {row["name"]: row for row in said(result)["runs"]}
    assert list(rows) == ["popularity", "sasrec", "half", "ilrec", "sft"]
    assert (locked["half"]["status"], rows["half"]["status"]) == ("locked", "unfinished")
    assert (rows["half"]["made_by"], rows["half"]["ids"], rows["half"]["seed"]) == ("sft", "text", 3)
    train = copy / "toy" / "runs" / "sft" / "train"
    log = read_log(train / "log.jsonl")
    assert rows["sft"]["training"]["valid_ndcg@10"] == max(row.get("valid_ndcg@10", 0) for row in log)
    assert rows["sft"]["training"]["seconds"] == log[-1]["seconds"]
    (done,) = (copy / "toy" / "runs" / "sft" / "eval").glob("[!.]*")
    assert rows["sft"]["evaluations"] == {done.name: json.loads((done / "metrics.json").read_text())["metrics"]}
    assert rows["sft"]["bytes"] == sum(file.stat().st_size for file in train.parent.rglob("*") if file.is_file())
    assert rows["sft"]["ids"] == "text"
    assert rows["sft"]["made"] == json.loads((train / "provenance.json").read_text())["time"]
    shown = next(line for line in result.out.splitlines() if line.startswith("sft"))
    assert f"{rows['sft']['evaluations'][done.name]['ndcg@10']:.4f}" in shown


def test_no_run_at_all(tmp_path: Path, ilrec: Run) -> None:
    assert "nothing was trained" in ilrec("runs", "ls", "--work", tmp_path).one_line()
    assert (
        "no run or collaborative model 'x'"
        in ilrec("runs", "show", "x", "--dataset", "d", "--work", tmp_path).one_line()
    )


def test_show_has_everything_that_decides_a_run(copy: Path, ilrec: Run) -> None:
    result = ilrec("runs", "show", "ilrec", "--dataset", "toy", "--work", copy, "--json")
    facts, run = said(result), artifacts.read(copy / "toy" / "runs" / "ilrec" / "train", "run")
    assert facts["settings"] == run.config
    assert {role: each["version"] for role, each in facts["parents"].items()} == run.manifest["parents"]
    assert {role: each["artifact"] for role, each in facts["parents"].items()} == {
        "data": "data", "ids": "ids/text", "cf": "cf/sasrec"}  # fmt: skip
    assert facts["provenance"]["source"] == provenance.source()
    assert "lambda_cpd: 0.01" in result.out
    assert "no run or collaborative model 'ilrek'" in (
        line := ilrec("runs", "show", "ilrek", "--dataset", "toy", "--work", copy).one_line()
    )
    assert "Did you mean 'ilrec'?" in line


def test_diff_names_what_differs_and_only_that(copy: Path, ilrec: Run) -> None:
    common = ["--dataset", "toy", "--work", copy]
    cli.invoke(["build-ids", *map(str, common), "--quiet", "--name", "other", "-o", "codes=8"])
    cli.invoke(["train", *map(str, common), "--quiet", "--method", "sft", "--name", "third", "--ids", "other", *TINY_LM,
                "--seed", "1"])  # fmt: skip
    cli.invoke(["evaluate", *map(str, common), "--quiet", "--run", "third", "--beams", "10"])
    found = said(ilrec("runs", "diff", "sft", "third", *common, "--json"))
    assert found["differences"]["settings"] == {"seed": [0, 1]}
    inputs = found["differences"]["data and inputs"]
    assert inputs.keys() == {"ids", "ids: options.codes"}
    assert inputs["ids: options.codes"] == [16, 8]
    assert found["differences"]["code"] == found["differences"]["environment"] == {}
    assert found["metrics"]["comparisons"] == said(ilrec("compare", "sft", "third", *common, "--json"))["comparisons"]
    alone = ilrec("runs", "diff", "sft", "ilrec", *common, "--json")
    assert "not compared. 'ilrec' is not evaluated" in alone.out
    assert said(alone)["differences"]["settings"]["options.alpha"] == [None, 0.8]


def test_diff_sees_code_and_environment(copy: Path, ilrec: Run) -> None:
    file = copy / "toy" / "runs" / "ilrec" / "train" / "provenance.json"
    made = json.loads(file.read_text())
    file.write_text(json.dumps({**made, "source": "0" * 16, "packages": {**made["packages"], "torch": "1.0"}}))
    found = said(ilrec("runs", "diff", "sft", "ilrec", "--dataset", "toy", "--work", copy, "--json"))["differences"]
    assert found["code"] == {"source": [provenance.source(), "0" * 16]}
    assert found["environment"] == {"packages.torch": [made["packages"]["torch"], "1.0"]}


def test_rm_asks_and_keeps_what_is_needed(copy: Path, ilrec: Run) -> None:
    common = ["--dataset", "toy", "--work", copy]
    before = tree(copy)
    assert "cf/sasrec stays, runs/ilrec was made from it" in ilrec("runs", "rm", "sasrec", *common, "--yes").one_line()
    assert "add --yes" in ilrec("runs", "rm", "sft", *common).one_line()
    with folders.locked(copy / "toy" / "runs" / "sft", wait=False):
        assert "another process" in ilrec("runs", "rm", "ilrec", "sft", *common, "--yes").one_line()
    assert tree(copy) == before
    half = copy / "toy" / "runs" / "half" / "train"
    half.mkdir(parents=True)
    (half / "config.yaml").write_text("method: ilrec\ncf: sasrec\n")
    assert "runs/half (unfinished)" in ilrec("runs", "rm", "sasrec", "ilrec", *common, "--yes").one_line()
    (half / "config.yaml").write_text("method: ilrec\ncf: sasrec\nfrom: sft\n")
    assert "runs/sft stays, runs/half (unfinished)" in ilrec("runs", "rm", "sft", *common, "--yes").one_line()
    removed = said(ilrec("runs", "rm", "sasrec", "ilrec", "half", *common, "--yes", "--json"))["removed"]
    assert len(removed) == 3
    assert {path.name for path in (copy / "toy" / "runs").iterdir()} == {"sft"}
    assert {path.name for path in (copy / "toy" / "cf").iterdir()} == {"popularity"}


def test_rm_of_an_unfinished_run_gives_the_one_it_was_to_replace_back(copy: Path, ilrec: Run) -> None:
    run = copy / "toy" / "runs" / "sft"
    finished = artifacts.read(run / "train", "run").digest
    run.rename(folders.old(run))
    (run / "train").mkdir(parents=True)
    (run / "train" / "config.yaml").write_text(config.to_yaml({"method": "sft"}))
    result = ilrec("runs", "rm", "sft", "--dataset", "toy", "--work", copy, "--yes")
    assert "is there again" in result.out
    assert artifacts.read(run / "train", "run").digest == finished


def test_a_name_that_is_both_must_say_which(copy: Path, ilrec: Run) -> None:
    shutil.copytree(copy / "toy" / "runs" / "sft", copy / "toy" / "runs" / "popularity")
    common = ["--dataset", "toy", "--work", copy]
    assert "say runs/popularity or cf/popularity" in ilrec("runs", "show", "popularity", *common).one_line()
    assert said(ilrec("runs", "show", "cf/popularity", *common, "--json"))["kind"] == "cf"


def test_provenance_says_which_code(tmp_path: Path) -> None:
    assert len(provenance.source()) == 16
    found = provenance.commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
