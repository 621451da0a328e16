"""Candidate ranking by the command line: every figure is counted again, from the files alone and by other means."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from candidate_shop import NAMES, by_hand, evaluation, files, prompt_of, rows_of, saved
from conftest import TINY_LM, Finished
from test_lcrec_tasks import stopped

from ilrec_cli import artifacts

Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with data, titles as identifiers, collaborative models, and a run of each method on candidates."""
    from ilrec_cli import cli

    work = tmp_path_factory.mktemp("candidates")
    common = ["--dataset", "toy", "--work", str(work), "--quiet"]
    raw = str(files(work / "raw"))
    train = ["train", *common, "--tasks", "candidates", *TINY_LM, "--epochs", "3", "--learning-rate", "1e-2"]
    for command in (
        ["preprocess", *common, "--raw-dir", raw, "-o", "valid_share=0.2"],
        ["build-ids", *common, "--scheme", "title", "--name", "titles"],
        [
            "train-cf",
            *common,
            "--model",
            "sasrec",
            "--name",
            "sasrec",
            "--epochs",
            "2",
            "-o",
            "hidden_size=8",
            "-o",
            "n_heads=1",
        ],
        [*train, "--method", "sft", "--name", "sft"],
        [*train, "--method", "ilrec", "--name", "ilrec", "-o", "mu_crr=0.5"],
    ):
        cli.invoke(command)
    return work


def evaluate(ilrec: Run, work: Path, *flags: Any) -> dict[str, Any]:
    done = ilrec("evaluate", "--dataset", "toy", "--work", work, "--json", *flags)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return found


def test_training_rows_keep_their_candidates_and_the_rest_validates(shop: Path) -> None:
    data = artifacts.read(shop / "toy" / "data", "data")
    split = dict(zip(data.table("splits")["event"].to_pylist(), data.table("splits")["split"].to_pylist(), strict=True))
    sets = data.table("candidates")["event"].to_pylist()
    assert [list(map(split.get, sets)).count(name) for name in ("train", "valid", "test")] == [48, 12, 30]
    log = (shop / "toy" / "runs" / "ilrec" / "train" / "log.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in log]
    assert any("crr" in line and line["crr"] > 0 for line in lines)
    assert {"valid_hit@1", "valid_ndcg@10"} <= set().union(*lines)


@pytest.mark.parametrize(("way", "template"), [("sum", 0), ("mean", 0), ("sum", 5)])
def test_scored_candidates_are_those_of_whole_sequences(shop: Path, ilrec: Run, way: str, template: int) -> None:
    model, tok = saved(shop, "ilrec")
    found = evaluate(ilrec, shop, "--run", "ilrec", "--candidates", way, "--template", template)
    name = f"test-cand6-{way}-vocab" + (f"-template{template}" if template else "")
    done = evaluation(shop, "ilrec", name)
    table = done.table("rankings").to_pylist()
    hits = []
    for row, listed in zip(rows_of(shop), table, strict=True):
        values = [total / (count if way == "mean" else 1) for total, count in by_hand(model, tok, row, template)]
        best = sorted(zip(values, row["itemList"], strict=True), reverse=True)
        assert [item for _, item in best] == listed["items"]
        np.testing.assert_allclose(listed["scores"], [value for value, _ in best], atol=1e-4)
        assert listed["target"] == row["trueSelection"]
        assert listed["items"][listed["rank"]] == row["trueSelection"]
        hits.append(best[0][1] == row["trueSelection"])
    assert found["events"] == 30
    assert found["metrics"]["ilrec"]["hit@1"] == pytest.approx(np.mean(hits), abs=1e-12)


def test_what_is_written_is_what_generate_writes_and_every_figure_is_its_count(shop: Path, ilrec: Run) -> None:
    model, tok = saved(shop, "sft")
    found = evaluate(ilrec, shop, "--run", "sft", "--candidates", "generate")["metrics"]["sft"]
    done = evaluation(shop, "sft", "test-cand6-names")
    longest = max(len(tok(name, add_special_tokens=False).input_ids) for name in NAMES) + 1
    counts = dict.fromkeys(("hit@1", "valid", "substring_hit@1", "substring_valid"), 0)
    for row, answer, ranked in zip(rows_of(shop), done.table("texts").to_pylist(), done.table("rankings").to_pylist(), strict=True):  # fmt: skip
        prompt = torch.tensor([prompt_of(tok, row)])
        written = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=longest, do_sample=False
        )
        text = tok.decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
        assert answer["text"] == text
        named = [name for name in row["itemList"] if name.casefold() == " ".join(text.casefold().split())]
        inside = [name for name in row["itemList"] if name in text]
        assert answer["is_title"] == (text in NAMES)
        assert ranked["items"] == named
        counts["hit@1"] += named == [row["trueSelection"]]
        counts["valid"] += len(named) == 1
        counts["substring_hit@1"] += inside == [row["trueSelection"]]
        counts["substring_valid"] += len(inside) == 1
    assert counts["valid"] > 0, "or nothing is compared"
    for name, count in counts.items():
        assert found[name] == pytest.approx(count / 30, abs=1e-12), name
    slices = done.json("metrics.json")["slices"]["target_in_training"]
    assert sum(part["events"] for part in slices.values()) == 30
    whole = sum(part["events"] * part["metrics"]["valid"] for part in slices.values())
    assert whole == pytest.approx(counts["valid"])


def test_collaborative_models_rank_the_same_candidates(shop: Path, ilrec: Run) -> None:
    found = evaluate(ilrec, shop, "--run", "popularity,sasrec", "--candidates", "sum")
    seen: dict[str, int] = {}
    shown = set()
    for row in json.loads((shop / "raw" / "toy-val.json").read_text())[:48]:
        seen[row["trueSelection"]] = seen.get(row["trueSelection"], 0) + 1
        shown |= {row["trueSelection"], *row["historyList"].split("::")}
    hits, unseen = [], []
    for row, ranked in zip(rows_of(shop), evaluation(shop, "popularity", "test-cand6").table("rankings").to_pylist(), strict=True):  # fmt: skip
        best = sorted(row["itemList"], key=lambda name: (-seen.get(name, 0), name))
        assert ranked["items"] == best, "ties: items are numbered by name"
        hits.append(best[0] == row["trueSelection"])
        unseen.append(row["trueSelection"] not in shown)
    assert found["metrics"]["popularity"]["hit@1"] == pytest.approx(np.mean(hits), abs=1e-12)
    metrics = evaluation(shop, "popularity", "test-cand6").json("metrics.json")
    assert metrics["protocol"]["candidates"] == "6 of each event"
    assert metrics["slices"]["target_in_training"].get("unseen", {"events": 0})["events"] == sum(unseen)
    assert {row["rank"] for row in evaluation(shop, "sasrec", "test-cand6").table("rankings").to_pylist()} <= set(
        range(6)
    )


def test_everything_is_evaluated_that_was_trained_for_it(shop: Path, ilrec: Run) -> None:
    done = ilrec("evaluate", "--dataset", "toy", "--work", shop, "--candidates", "sum")
    assert done.code == 0, done.err
    assert "hit@1 unseen" in done.out
    assert "30 test events, 6 of each event ranked" in done.out
    assert {line.split()[0] for line in done.out.splitlines() if line.startswith(("sft ", "ilrec ", "popularity ", "sasrec "))} == {"sft", "ilrec", "popularity", "sasrec"}  # fmt: skip
    done = ilrec("evaluate", "--dataset", "toy", "--work", shop)
    assert "2 runs were not trained for the full catalogue" in done.err
    done = ilrec("report", "--dataset", "toy", "--work", shop)
    assert done.code == 0, done.err
    assert ilrec("compare", "--dataset", "toy", "--work", shop, "sft:test-cand6-sum-vocab", "ilrec:test-cand6-sum-vocab", "--metrics", "hit@1").code == 0  # fmt: skip
    line = ilrec(
        "compare", "--dataset", "toy", "--work", shop, "popularity:test-full", "sft:test-cand6-sum-vocab"
    ).one_line()
    assert "candidates" in line


def test_targets_seen_and_unseen_in_training_are_apart_in_comparison_and_report(shop: Path, ilrec: Run) -> None:
    evaluate(ilrec, shop, "--run", "sft,ilrec", "--candidates", "sum")
    sides = [f"{name}:test-cand6-sum-vocab" for name in ("sft", "ilrec")]
    done = ilrec("compare", "--dataset", "toy", "--work", shop, *sides, "--metrics", "hit@1", "--slices", "--json")
    assert done.code == 0, done.err
    rows = {row["slice"]: row for row in json.loads(done.out.splitlines()[-1])["comparisons"]}
    for name, key in (("sft", "base"), ("ilrec", "value")):
        parts = evaluation(shop, name, "test-cand6-sum-vocab").json("metrics.json")["slices"]["target_in_training"]
        assert set(parts) == {"seen", "unseen"}
        for part, each in parts.items():
            row = rows[f"target_in_training: {part}"]
            assert row["events"] == each["events"]
            assert row[key] == pytest.approx(each["metrics"]["hit@1"], abs=1e-12)
    assert (
        ilrec(
            "report", "--dataset", "toy", "--work", shop, "--formats", "md", "--output", shop / "r" / "page.html"
        ).code
        == 0
    )
    (page,) = (shop / "r").rglob("report.md")
    table = page.read_text().partition("by candidate target in training")[2].partition("\n#")[0]
    assert "hit@1" in table
    assert "| unseen" in table
    evaluate(ilrec, shop, "--run", "sft", "--candidates", "generate")
    said = ilrec(
        "report", "--dataset", "toy", "--work", shop, "--formats", "md", "--output", shop / "r" / "page.html"
    ).out
    head = next(line for line in said.splitlines() if "search" in line and "substring_valid" in line)
    assert "substring_hit@1" in head.split(), "valid ratio beside Hit@1"


def test_the_mean_over_prompts_has_its_parts(shop: Path, ilrec: Run) -> None:
    done = ilrec(
        "evaluate", "--dataset", "toy", "--work", shop, "--run", "sft", "--candidates", "generate", "--all-templates"
    )
    assert done.code == 0, done.err
    kept = json.loads((shop / "toy" / "runs" / "sft" / "eval" / "test-cand6-names-mean12.json").read_text())
    every = [evaluation(shop, "sft", name).json("metrics.json") for name in kept["by_template"]]
    for part in ("seen", "unseen"):
        parts = [each["slices"]["target_in_training"][part] for each in every]
        found = kept["slices"]["target_in_training"][part]
        assert found["events"] == parts[0]["events"]
        for name in ("hit@1", "valid"):
            assert found["metrics"][name] == pytest.approx(
                np.mean([each["metrics"][name] for each in parts]), abs=1e-12
            )
    (row,) = [line.split() for line in done.out.splitlines() if line.startswith("sft ") and "events" not in line]
    seen = kept["slices"]["target_in_training"]["seen"]["metrics"]["hit@1"]
    assert [row[1], row[2], row[-2]] == [
        f"{value:.4f}" for value in (kept["metrics"]["hit@1"], kept["metrics"]["valid"], seen)
    ]
    assert any("valid" in line.split() for line in done.out.splitlines() if line.startswith("prompt "))
    assert (
        ilrec(
            "report",
            "--dataset",
            "toy",
            "--work",
            shop,
            "--formats",
            "html,csv,svg",
            "--output",
            shop / "m" / "page.html",
        ).code
        == 0
    )


def test_no_epoch_has_an_example_that_is_too_long(shop: Path) -> None:
    """Templates are drawn anew: one that epoch 1 draws can be longer than all of epoch 0's."""
    from ilrec_cli import config as configs
    from ilrec_cli.errors import UserError
    from ilrec_cli.settings import Train
    from ilrec_cli.stages import _backbones, _job, _models, _task

    def rows(**values: Any) -> Any:
        asked = {
            "dataset": "toy",
            "work": str(shop),
            "tasks": ["candidates"],
            "method": "sft",
            "ids": "titles",
            **values,
        }
        task = _task.decided(configs.build(Train, asked, "train"))
        data, ids = task.parents["data"], task.parents["ids"]
        tok = _backbones.open_backbone(task.settings, data).tokenizer
        return _job.make_rows(task.settings, data, _models.catalogue(ids, tok), tok)[0]

    for seed in range(9):
        made = rows(seed=seed, epochs=6)
        longest = [int(made.at(epoch).lengths().max()) for epoch in range(6)]
        if max(longest) > longest[0]:
            break
    assert max(longest) > longest[0], "or nothing is shown"
    rows(seed=seed, epochs=6, max_length=max(longest))
    with pytest.raises(UserError, match=f"the longest example of candidate ranking has {max(longest)} tokens"):
        rows(seed=seed, epochs=6, max_length=longest[0])


@pytest.mark.parametrize("method", ["sft", "ilrec"])
def test_a_plan_counts_what_is_trained(shop: Path, ilrec: Run, method: str) -> None:
    flags = ["--dataset", "toy", "--work", shop, "--tasks", "candidates", "--method", method, *TINY_LM]
    done = ilrec("plan", *flags, "--epochs", "1", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert (found["examples"], found["targets"], found["steps"]) == (48, 48, 3)
    assert ilrec("train", *flags, "--epochs", "1", "--name", f"planned-{method}").code == 0
    cost = json.loads((shop / "toy" / "runs" / f"planned-{method}" / "train" / "cost.json").read_text())["total"]
    assert found["tokens"] == cost["prompt_tokens"] + cost["response_tokens"]
    assert found["supervised_tokens"] == cost["response_tokens"]
    assert all(shape["children"] == (6 if method == "ilrec" else 0) for shape in found["micro_batches"])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["evaluate", "--run", "sft"], "--candidates sum, mean or generate"),
        (["recommend", "--run", "sft", "--history", "Tune"], "trained to choose among candidates"),
        (["export", "--run", "sft"], "train/model is a Hugging Face folder already"),
        (["evaluate", "--run", "sft", "--candidates", "sum", "--template", "99"], "prompts 0 to 11"),
        (["evaluate", "--run", "sft", "--candidates", "sum", "--exact", "3"], "exclude each other"),
        (["evaluate", "--run", "sft", "--candidates", "sum", "--normalize", "trie"], "vocab or ids"),
        (["evaluate", "--run", "sasrec", "--candidates", "sum", "--seen-items", "removed"], "exclude each other"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_in_a_line(shop: Path, ilrec: Run, command: list[str], said: str) -> None:
    assert said in ilrec(*command, "--dataset", "toy", "--work", shop).one_line()


def test_own_data_with_drawn_candidates_train_and_rank_too(own_world: Path, ilrec: Run) -> None:
    """Sequences of users; negatives drawn by preprocess for held-out targets, and in every epoch for training ones."""
    common = ["--dataset", "toy", "--work", own_world]
    assert "no candidates.parquet" in ilrec("evaluate", *common, "--candidates", "sum").one_line()
    flags = ["--source", "synthetic", "-o", "users=60", "--user-k", 4, "--item-k", 1, "--candidates", 4]
    assert ilrec("preprocess", *common, *flags).code == 0
    assert ilrec("build-ids", *common, "--scheme", "title", "--name", "titles").code == 0
    train = ["train", *common, "--ids", "titles", "--tasks", "candidates", "--method", "sft", "--name", "own", *TINY_LM, "--max-steps", 2]  # fmt: skip
    done = ilrec(*train)
    assert done.code == 0, done.err
    again = ilrec(*train, "--overwrite")
    assert again.code == 0, again.err
    longer = [*train[:-2], "--batch-size", "64", "--epochs", "3", "--save-every", "1"]  # the last value of a flag wins
    weights = []
    for name, after in (("whole", None), ("halted", 4)):
        flags = [*map(str, longer), "--name", name]
        if after is not None:
            stopped(flags[1:], after)
            flags.append("--resume")
        done = ilrec(*flags)
        assert done.code == 0, done.err
        weights.append((own_world / "toy" / "runs" / name / "train" / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1], "epochs draw the same candidates and templates again"
    found = evaluate(ilrec, own_world, "--run", "own", "--candidates", "sum")
    assert 0 <= found["metrics"]["own"]["hit@1"] <= 1
    assert found["metrics"]["own"]["hit@5"] == 1, "five candidates"
