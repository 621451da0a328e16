"""The real commands end to end on a toy world: what they write, that it repeats, and that it fits together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_LM, Finished

from ilrec_cli import artifacts, cli
from ilrec_cli.json_log import read_log
from ilrec_cli.metrics import reported_means

Run = Callable[..., Finished]


def common(work: Path) -> list[str]:
    return ["--dataset", "toy", "--work", str(work)]


def test_the_card_counts_what_was_dropped(world: Path) -> None:
    data = artifacts.read(world / "toy" / "data", "data")
    card = data.json("card.json")
    statistics = card["statistics"]
    table = data.table("interactions")
    lengths = np.bincount(table["user"].to_numpy())
    assert statistics["users"] == len(lengths) == data.table("users").num_rows
    assert statistics["items"] == len(set(table["item"].to_pylist())) == data.table("items").num_rows
    assert statistics["interactions"] == table.num_rows
    assert statistics["training_targets"] == sum(
        max(length - 3, 0) if length >= 3 else length - 1 for length in lengths
    )
    assert card["passes"][-1] == [statistics["users"], statistics["items"], statistics["interactions"]]
    assert (
        sum(card["dropped"][name] for name in ("repeated interactions", "interactions outside the k-core"))
        + table.num_rows
        == _raw_rows()
    )


def _raw_rows() -> int:
    from ilrec_cli.datasets import synthetic
    from ilrec_cli.datasets._raw import Reading
    from ilrec_cli.datasets.synthetic import load

    return len(load.load(Path(), "toy", synthetic.Config(users=120), Reading()).interactions)


def test_ids_are_numbered_by_sorted_raw_id_and_sequences_are_in_time_order(world: Path) -> None:
    data = artifacts.read(world / "toy" / "data", "data")
    for name in ("users", "items"):
        raw = data.table(name)["raw_id"].to_pylist()
        assert raw == sorted(raw)
    rows = data.table("interactions").to_pylist()
    assert rows == sorted(rows, key=lambda row: (row["user"], row["timestamp"]))
    by_user: dict[int, list[int]] = {}
    for row in rows:
        by_user.setdefault(row["user"], []).append(row["item"])
    assert {row["user"]: row["items"] for row in data.table("sequences").to_pylist()} == by_user


def test_every_stage_again_gives_the_same_digest(world: Path, tmp_path: Path) -> None:
    """The same inputs, the same bytes: data, identifiers, collaborative model."""
    again = ["--dataset", "toy", "--work", str(tmp_path), "--quiet"]
    cli.invoke(["preprocess", *again, "--source", "synthetic", "-o", "users=120", "--user-k", "4", "--item-k", "1"])
    cli.invoke(["build-ids", *again, "--name", "text", "-o", "codes=16"])
    cli.invoke(["train-cf", *again, "--name", "sasrec", "--epochs", "2", "-o", "hidden_size=16"])
    for folder, kind in (
        ("data", "data"),
        ("ids/text", "ids"),
        ("cf/sasrec/train", "cf"),
        ("cf/popularity/train", "cf"),
    ):
        one, two = (artifacts.read(work / "toy" / folder, kind) for work in (world, tmp_path))
        assert one.digest == two.digest, folder


def test_training_logs_every_term_and_reduces_the_loss(trained: Path) -> None:
    for method, terms in (("sft", {"ce"}), ("ilrec", {"cpo", "cpd", "crr", "ce"})):
        folder = trained / "toy" / "runs" / method / "train"
        rows = [row for row in read_log(folder / "log.jsonl") if "loss" in row]
        assert rows[-1]["loss"] < rows[0]["loss"]
        assert terms <= rows[0].keys()
        files = artifacts.read(folder, "run").manifest["files"]
        assert {"model/model.safetensors", "model/config.json", "model/tokenizer.json", "config.yaml"} <= files.keys()
    row = rows[0]
    assert row["loss"] == pytest.approx(row["cpo"] + 0.01 * row["cpd"] + 0.01 * row["crr"], rel=1e-5)


def test_a_second_training_is_byte_identical(trained: Path) -> None:
    cli.invoke(["train", *common(trained), "--quiet", "--method", "ilrec", "--name", "ilrec-again", *TINY_LM])
    one, two = (artifacts.read(trained / "toy" / "runs" / name / "train", "run") for name in ("ilrec", "ilrec-again"))
    assert one.digest == two.digest


def test_evaluation_ranks_valid_items_by_original_id(trained: Path, ilrec: Run) -> None:
    result = ilrec("evaluate", *common(trained), "--run", "sft,ilrec,sasrec,popularity", "--json")
    assert result.code == 0, result.err
    summary = json.loads(result.out.splitlines()[-1])
    data = artifacts.read(trained / "toy" / "data", "data")
    items, users = set(data.table("items")["raw_id"].to_pylist()), data.table("users")["raw_id"].to_pylist()
    targets = {users[row["user"]]: row["items"][-1] for row in data.table("sequences").to_pylist()}
    raw = data.table("items")["raw_id"].to_pylist()
    for folder in (
        "runs/sft/eval/test-full-beam20-vocab",
        "runs/ilrec/eval/test-full-beam20-vocab",
        "cf/sasrec/eval/test-full",
    ):
        done = artifacts.read(trained / "toy" / folder, "eval")
        rows = done.table("rankings").to_pylist()
        assert [row["user"] for row in rows] == users, "every user once, in order"
        for row in rows:
            assert set(row["items"]) <= items
            assert len(set(row["items"])) == len(row["items"]) == 20
            assert row["scores"] == sorted(row["scores"], reverse=True)
            assert row["target"] == raw[targets[row["user"]]]
            assert row["rank"] == (row["items"].index(row["target"]) if row["target"] in row["items"] else -1)
        means = reported_means(np.array([row["rank"] for row in rows]))
        found = done.json("metrics.json")
        assert found["metrics"] == summary["metrics"][folder.split("/")[1]]
        assert {name: found["metrics"][name] for name in means} == means
        assert found["protocol"]["split"] == "test"


def test_popularity_is_ranked_by_training_counts(trained: Path, ilrec: Run) -> None:
    ilrec("evaluate", *common(trained), "--run", "popularity")
    data = artifacts.read(trained / "toy" / "data", "data")
    counts: dict[int, int] = {}
    for row in data.table("sequences").to_pylist():
        for item in row["items"][:-2]:
            counts[item] = counts.get(item, 0) + 1
    raw = data.table("items")["raw_id"].to_pylist()
    expected = [raw[item] for item in sorted(range(len(raw)), key=lambda item: (-counts.get(item, 0), item))][:20]
    rows = (
        artifacts.read(trained / "toy" / "cf" / "popularity" / "eval" / "test-full", "eval")
        .table("rankings")
        .to_pylist()
    )
    assert all(row["items"] == expected for row in rows)


def test_batch_size_does_not_change_the_ranking(trained: Path, ilrec: Run) -> None:
    tables = []
    for size in (1, 7, 64):
        ilrec(
            "evaluate", *common(trained), "--run", "ilrec", "--limit-users", "15", "--batch-size", size, "--overwrite"
        )
        folder = trained / "toy" / "runs" / "ilrec" / "eval" / "test-full-beam20-vocab-n15-s0"
        tables.append(artifacts.read(folder, "eval").table("rankings").to_pylist())
    for table in tables[1:]:
        for one, two in zip(tables[0], table, strict=True):
            np.testing.assert_allclose(one["scores"], two["scores"], atol=1e-5)
            swapped = [
                place for place, pair in enumerate(zip(one["items"], two["items"], strict=True)) if pair[0] != pair[1]
            ]
            gaps = np.abs(np.diff(one["scores"]))
            assert all(min(gaps[max(place - 1, 0) : place + 1]) < 1e-5 for place in swapped), "only near-ties may swap"


def test_evaluation_is_reused_until_something_changes(trained: Path, ilrec: Run) -> None:
    arguments = ["evaluate", *common(trained), "--run", "sft", "--split", "valid", "--limit-users", "5"]
    assert "events in" in ilrec(*arguments).out
    assert "events in" not in ilrec(*arguments).out
    assert "events in" in ilrec(*arguments, "--overwrite").out
    assert "events in" in ilrec(*arguments, "--beams", "5").out


def test_recommendations_are_what_evaluation_would_rank(trained: Path, ilrec: Run) -> None:
    """A user's recommendations from the test history equal the ranking of the test event, seen items shown."""
    data = artifacts.read(trained / "toy" / "data", "data")
    users, raw = data.table("users")["raw_id"].to_pylist(), data.table("items")["raw_id"].to_pylist()
    sequence = data.table("sequences")["items"][3].as_py()
    history = ",".join(raw[item] for item in sequence[:-1])
    for run, folder in (("sft", "runs/sft/eval/test-full-beam20-vocab"), ("sasrec", "cf/sasrec/eval/test-full")):
        ilrec("evaluate", *common(trained), "--run", run)
        event = next(
            row
            for row in artifacts.read(trained / "toy" / folder, "eval").table("rankings").to_pylist()
            if row["user"] == users[3]
        )
        shown = ilrec(
            "recommend", *common(trained), "--run", run, "--history", history, "--k", "20", "--no-hide-seen", "--json"
        )
        assert shown.code == 0, shown.err
        found = json.loads(shown.out.splitlines()[-1])
        assert [row["item"] for row in found["recommendations"]] == event["items"]
        hidden = json.loads(
            ilrec(
                "recommend", *common(trained), "--run", run, "--history", history, "--k", "20", "--json"
            ).out.splitlines()[-1]
        )
        assert not set(history.split(",")) & {row["item"] for row in hidden["recommendations"]}
        titles = dict(zip(raw, data.table("items")["title"].to_pylist(), strict=True))
        assert all(row["title"] == titles[row["item"]] for row in found["recommendations"])


def test_recommend_for_a_user_shows_the_whole_sequence_as_history(trained: Path, ilrec: Run) -> None:
    data = artifacts.read(trained / "toy" / "data", "data")
    user, raw = data.table("users")["raw_id"][0].as_py(), data.table("items")["raw_id"].to_pylist()
    found = json.loads(
        ilrec("recommend", *common(trained), "--run", "ilrec", "--user", user, "--k", "3", "--json").out.splitlines()[
            -1
        ]
    )
    assert found["history"] == [raw[item] for item in data.table("sequences")["items"][0].as_py()]
    assert [row["rank"] for row in found["recommendations"]] == [1, 2, 3]


def test_the_report_has_every_run_and_needs_no_network(trained: Path, ilrec: Run) -> None:
    ilrec("evaluate", *common(trained))
    result = ilrec("report", *common(trained), "--json")
    assert result.code == 0, result.err
    page = (trained / "toy" / "report.html").read_text()
    metrics = next(
        group
        for title, group in json.loads(result.out.splitlines()[-1])["metrics"].items()
        if title.startswith("test split") and "users drawn" not in title
    )
    for run in ("sft", "ilrec", "sasrec", "popularity"):
        assert f"<td>{run}</td>" in page
        assert f"{metrics[run]['ndcg@10']:.4f}" in page
        assert run in result.out
    assert page.count("<svg ") >= 2
    assert "total loss" in page
    assert "L_CRR" in page
    assert not re.search(r"(src|href)=[\"']https?:|@import|url\(http|<script [^>]*src", page)
    assert 'role="img" aria-label="' in page


def test_the_report_without_matplotlib_says_so(trained: Path, ilrec: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    ilrec("evaluate", *common(trained), "--run", "sft")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    target = trained / "plain.html"
    result = ilrec("report", *common(trained), "--output", target)
    assert "pip install 'ilrec[plots]'" in result.err
    page = target.read_text()
    assert "<svg" not in page
    assert "Figures were left out" in page


@pytest.mark.parametrize(
    "more",
    [
        ["--targets", "last"],
        ["--tuning", "lora"],
        ["--backbone", "tiny-qwen2"],
        ["--dropout", "0.1"],
        ["--dtype", "bfloat16"],
    ],
)
def test_variants_of_training_evaluate(more: list[str], trained: Path, ilrec: Run) -> None:
    name = "-".join(part.strip("-") for part in more)
    assert ilrec("train", *common(trained), "--name", name, *TINY_LM, *more, "--max-steps", "3").code == 0
    result = ilrec("evaluate", *common(trained), "--run", name, "--limit-users", "5")
    assert result.code == 0, result.err
    assert f"{name}:" in result.out


def test_a_pretrained_folder_is_tuned_with_adapters(trained: Path, tmp_path: Path, ilrec: Run) -> None:
    """The loading code of real checkpoints, on a small one made here; the run is an adapter beside its base."""
    from conftest import qwen2

    from ilrec_cli.lm import tokenizer

    tok = tokenizer.train(["words of a base"], 300, adds_bos=False)
    qwen2(vocabulary=len(tok) + 9, layers=3, tie_word_embeddings=True, initializer_range=0.05).save_pretrained(
        tmp_path / "base"
    )
    tok.save_pretrained(tmp_path / "base")
    result = ilrec("train", *common(trained), "--name", "adapted", "--backbone", tmp_path / "base", "--tuning", "lora", *TINY_LM,
                   "--batch-size", "64", "--max-steps", "3")  # fmt: skip
    assert result.code == 0, result.err
    model = trained / "toy" / "runs" / "adapted" / "train" / "model"
    assert (model / "adapter_model.safetensors").is_file()
    assert not (model / "model.safetensors").exists()
    assert ilrec("evaluate", *common(trained), "--run", "adapted", "--limit-users", "4").code == 0


def test_hugging_face_encoders_give_vectors(own_world: Path, tmp_path: Path, ilrec: Run) -> None:
    from transformers import BertConfig, BertModel

    from ilrec_cli.lm import tokenizer

    tok = tokenizer.train(["Alder Classic Tent"], 300, adds_bos=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tok), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    BertModel(config).save_pretrained(tmp_path / "encoder")
    tok.save_pretrained(tmp_path / "encoder")
    vectors: dict[str, Any] = {}
    for size in (3, 64):
        name = f"bert{size}"
        arguments = [
            "build-ids",
            *common(own_world),
            "--encoder",
            tmp_path / "encoder",
            "--batch-size",
            size,
            "--name",
            name,
            "-o",
            "codes=16",
        ]
        result = ilrec(*arguments)
        assert result.code == 0, result.err
        from safetensors.numpy import load_file

        vectors[name] = load_file(own_world / "toy" / "ids" / name / "embeddings.safetensors")["embeddings"]
    np.testing.assert_allclose(vectors["bert3"], vectors["bert64"], atol=1e-5)
    model = BertModel.from_pretrained(tmp_path / "encoder").eval()
    data = artifacts.read(own_world / "toy" / "data", "data").table("items").to_pylist()[0]
    text = ". ".join([data["title"], data["brand"], ", ".join(data["categories"]), data["description"]])
    with torch.no_grad():
        hidden = model(torch.tensor([tok(text).input_ids])).last_hidden_state[0]
    np.testing.assert_allclose(vectors["bert64"][0], hidden.mean(0).numpy(), atol=1e-5)
