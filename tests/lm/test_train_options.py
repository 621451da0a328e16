"""Heads of layers, a softmax over identifiers, probed layers and pretrained streams: by the commands, end to end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from conftest import TINY_LM, Finished, llama
from test_backbone import saved_base
from test_loop import SETTINGS, a_job, run

from ilrec_cli import artifacts
from ilrec_cli.json_log import read_log
from ilrec_cli.lm.heads import LayerHeads, open_heads
from ilrec_cli.lm.model import SupervisedLM, final_norm
from ilrec_cli.lm.sharding import Parallel


def with_heads(folder: Path, settings: Any) -> Any:
    job = a_job(folder, settings, torch.float32)
    backbone = llama(initializer_range=0.02)
    model = SupervisedLM(backbone, (2,), layer_heads=LayerHeads((2,), final_norm(backbone), 4))
    return replace(job, parallel=Parallel(model, Accelerator(cpu=True)))


def test_heads_of_layers_are_part_of_checkpoints(tmp_path: Path) -> None:
    straight, _ = run(with_heads(tmp_path / "a", SETTINGS))
    job, calls = with_heads(tmp_path / "b", SETTINGS), []

    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return job.loss(*arguments, **named)

    with pytest.raises(KeyboardInterrupt):
        run(replace(job, loss=counting))
    resumed, _ = run(with_heads(tmp_path / "b", replace(SETTINGS, resume=True)))
    assert sum(name.startswith("layer_heads.") for name in straight) == 3
    assert straight["layer_heads.heads.0.up_DR"].any(), "it was trained"
    for name, value in straight.items():
        assert torch.equal(resumed[name], value), name


def train(ilrec: Callable[..., Finished], work: Path, name: str, *more: str) -> artifacts.Artifact:
    result = ilrec("train", "--dataset", "toy", "--work", work, "--name", name, *TINY_LM, "--max-steps", "3", *more)
    assert result.code == 0, result.err
    return artifacts.read(work / "toy" / "runs" / name / "train", "run")


def test_separate_heads_are_saved_beside_the_model_and_used_by_their_layer(
    own_world: Path, ilrec: Callable[..., Finished]
) -> None:
    found = train(ilrec, own_world, "separate", "-o", "layer_head=separate", "-o", "lambda_cpd=1", "-o",
                  "layers=random:1:-1:-2")  # fmt: skip
    layers = found.json("layout.json")["candidate_layers"]
    assert layers in ([1], [2]), "the draw is there for readers"
    heads = open_heads(found.path, final_norm(llama(width=16)))
    assert heads is not None
    assert heads.layers == tuple(layers)
    assert "layer_heads.safetensors" in found.manifest["files"]
    common = ["evaluate", "--dataset", "toy", "--work", own_world, "--run", "separate", "--limit-users", "20"]
    scores = []
    for name in ("with", "without"):
        result = ilrec(*common, "--beams", "4", "--exit-layer", str(layers[0]), "--overwrite")
        assert result.code == 0, result.err
        (table,) = (found.path.parent / "eval").glob("*layer*/rankings.parquet")
        scores.append((name, table.read_bytes()))
        (found.path / "layer_heads.safetensors").unlink(missing_ok=True)
        manifest = json.loads((found.path / "manifest.json").read_text())
        manifest["files"].pop("layer_heads.safetensors", None)
        (found.path / "manifest.json").write_text(json.dumps(manifest))
    assert scores[0][1] != scores[1][1]


def test_a_run_on_identifiers_is_decoded_in_its_scope(own_world: Path, ilrec: Callable[..., Finished]) -> None:
    found = train(ilrec, own_world, "scoped", "--vocab-scope", "ids")
    assert found.config["vocab_scope"] == "ids"
    ce = [row["ce"] for row in read_log(found.path / "log.jsonl") if "ce" in row]
    assert ce[0] < 4, "of a few dozen tokens, not of hundreds"
    common = ["evaluate", "--dataset", "toy", "--work", own_world, "--run", "scoped", "--limit-users", "10"]
    assert ilrec(*common, "--beams", "4").code == 0
    (folder,) = (found.path.parent / "eval").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["protocol"]["normalize"] == "ids"
    refused = ilrec(*common, "--beams", "4", "--normalize", "vocab").one_line()
    assert "--vocab-scope ids" in refused
    assert "--normalize ids or trie" in refused
    assert ilrec(*common, "--beams", "4", "--normalize", "trie").code == 0


@pytest.mark.parametrize("method", ["sft", "ilrec"])
def test_probing_changes_no_weight_and_shows_in_the_log(
    own_world: Path, ilrec: Callable[..., Finished], method: str
) -> None:
    plain, probed = (
        train(ilrec, own_world, name, "--method", method, "--log-every", "2", *more)
        for name, more in (("plain", ()), ("probed", ("--probe-layers", "all")))
    )
    assert plain.digest == probed.digest, "it is no part of what decides the result"
    rows = [row for row in read_log(probed.path / "log.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [2, 3]
    assert all({"ce_layer_1", "ce_layer_2", "ce_layer_3"} <= row.keys() for row in rows)
    assert rows[1]["ce_layer_3"] == pytest.approx(rows[1]["ce"], rel=1e-5), (
        "one step since the last line: the same batch"
    )
    assert not any("ce_layer" in key for row in read_log(plain.path / "log.jsonl") for key in row)
    if method == "ilrec":
        statistics = {"negatives", "no_negatives", "negative_logits", "sibling_penalty", "target_label", "target_alone",
                      "liked_negatives", "layer_agreement"}  # fmt: skip
        assert statistics <= rows[0].keys()
    assert (
        "expected all, or numbers from 1 to 3"
        in ilrec(
            "train", "--dataset", "toy", "--work", own_world, "--name", "x", *TINY_LM, "--probe-layers", "4"
        ).one_line()
    )


def test_negatives_within_the_trie_are_counted_where_no_term_uses_them(
    own_world: Path, ilrec: Callable[..., Finished]
) -> None:
    """Only the distillation is left: V_N is for the log alone."""
    found = train(ilrec, own_world, "cpd", "-o", "beta=0", "-o", "mu_crr=0", "-o", "negatives_scope=trie")
    rows = [row for row in read_log(found.path / "log.jsonl") if "loss" in row]
    assert all(row["sibling_penalty"] == pytest.approx(1) for row in rows)
    assert "crr" not in rows[0]


@pytest.mark.parametrize("ensemble", ["mean", "max_prob"])
def test_without_an_ensemble_nothing_is_said_of_negatives(
    own_world: Path, ilrec: Callable[..., Finished], ensemble: str
) -> None:
    found = train(ilrec, own_world, ensemble, "--preset", "table3-sft", "-o", f"ensemble={ensemble}")
    rows = [row for row in read_log(found.path / "log.jsonl") if "loss" in row]
    assert not any("negatives" in name for row in rows for name in row)
    assert rows[0]["loss"] == rows[0]["ce"]


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_recomputed_activations_change_nothing_and_warn_of_nothing(
    own_world: Path, ilrec: Callable[..., Finished], tuning: str
) -> None:
    flags = ["--tuning", tuning, "--lora-dropout", "0"]
    plain, again = (
        train(ilrec, own_world, name, *flags, *more)
        for name, more in (("plain", ()), ("again", ("--gradient-checkpointing",)))
    )
    assert plain.digest == again.digest


@pytest.mark.parametrize("tied", [False, True], ids=["llama", "qwen2"])
def test_streams_of_items_on_pretrained_backbones(
    own_world: Path, ilrec: Callable[..., Finished], tmp_path: Path, tied: bool
) -> None:
    base = saved_base(tmp_path / "base", tied=tied)
    found = train(ilrec, own_world, "stream", "--backbone", base, "--targets", "all", "--vocab-scope", "ids")
    assert found.config["targets"] == "all"
    layout = found.json("layout.json")
    assert layout["closed"]
    assert len(layout["lead"]) == 1, "Llama's start token; the end token where the tokenizer has none"
    result = ilrec(
        "evaluate", "--dataset", "toy", "--work", own_world, "--run", "stream", "--limit-users", "10", "--beams", "4"
    )
    assert result.code == 0, result.err
