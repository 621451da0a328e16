"""Preference tuning on candidate ranking, by the command: negatives are a row's own candidates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from candidate_shop import files
from conftest import TINY_LM, Finished
from safetensors.numpy import load_file

from ilrec_cli import artifacts, cli
from ilrec_cli.lm.responses import Responses
from ilrec_cli.methods._negatives import items_of
from ilrec_cli.methods.grpo.data import Rollouts

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


def test_answers_of_grpo_are_candidates_of_their_row(
    shop: Path, ilrec: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight are asked for, rows have six: all of them, and the target among these."""
    batch, seen = Rollouts.batch, []

    def watched(self: Rollouts, rows: np.ndarray) -> Responses:
        seen.append((self.prompts.allowed[rows], items_of(self.prompts.catalogue.trie, self.answers(rows).leaf_BR)))  # type: ignore[index]
        made = batch(self, rows)
        assert made.extra["right"].sum(1).tolist() == [1.0] * len(rows)
        return made

    monkeypatch.setattr(Rollouts, "batch", watched)
    tune = ["train", "--dataset", "toy", "--work", shop, "--method", "grpo", "--from", "sft", *FEW]
    result = ilrec(*tune, "--name", "grpo", "-o", "rank=1")
    assert result.code == 0, result.err
    for allowed, found in seen:
        for row, answers in zip(allowed.tolist(), found.tolist(), strict=True):
            assert set(answers) == {*row, -1}
    assert ilrec("evaluate", "--dataset", "toy", "--work", shop, "--run", "grpo", "--candidates", "sum").code == 0
    assert "candidates" in ilrec(*tune, "--name", "samples", "-o", "rollouts=sample").one_line()
