"""Preference tuning on candidate ranking, by the command: negatives are a row's own candidates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_LM, Finished
from safetensors.numpy import load_file
from test_candidates_command import files

from ilrec_cli import artifacts, cli

FEW = ["--max-steps", "2", "--valid-users", "5"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with six candidates, titles, a collaborative model, and a fine-tuned run."""
    work = tmp_path_factory.mktemp("pairs")
    common = ["--dataset", "toy", "--work", str(work), "--quiet"]
    for command in (
        ["preprocess", *common, "--raw-dir", str(files(work / "raw")), "-o", "valid_share=0.2"],
        ["build-ids", *common, "--scheme", "title", "--name", "titles"],
        ["train-cf", *common, "--name", "sasrec", "--epochs", "1", "-o", "hidden_size=8", "-o", "n_heads=1"],
        ["train", *common, "--tasks", "candidates", "--method", "sft", "--name", "sft", *TINY_LM, *FEW],
    ):
        cli.invoke(command)
    return work


@pytest.mark.parametrize("method", ["dpo", "s_dpo", "rosepo", "sprec"])
def test_negatives_are_the_other_candidates_of_the_row(method: str, shop: Path, ilrec: Callable[..., Finished]) -> None:
    few = {"s_dpo": ["-o", "negatives=5"], "sprec": ["-o", "iterations=1"]}.get(method, [])
    result = ilrec(
        "train", "--dataset", "toy", "--work", shop, "--method", method, "--from", "sft", "--name", method, *FEW, *few
    )
    assert result.code == 0, result.err
    run = artifacts.read(shop / "toy" / "runs" / method / "train", "run")
    assert run.config["tasks"] == ["candidates"]
    assert run.json("layout.json") == artifacts.read(shop / "toy" / "runs" / "sft" / "train", "run").json("layout.json")
    (*_, last) = sorted((run.path / "phases").iterdir())
    item_ER = load_file(last / "data.safetensors")["items"]
    data = artifacts.read(shop / "toy" / "data", "data")
    known = {frozenset(items) for items in data.table("candidates")["items"].to_pylist()}
    for row in item_ER.tolist():
        assert len(set(row)) == len(row)
        assert any(set(row) <= each for each in known), "of one row of the files"
    if method == "s_dpo":
        assert {frozenset(row) for row in item_ER.tolist()} <= known, "five negatives are all others"
    evaluated = ilrec("evaluate", "--dataset", "toy", "--work", shop, "--run", method, "--candidates", "sum")
    assert evaluated.code == 0, evaluated.err
