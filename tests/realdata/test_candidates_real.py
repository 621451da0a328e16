"""Candidate ranking on S-DPO's LastFM files: Hit@1 is counted by hand on 50 rows, and every name is spelled as the trie has it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_LM

from ilrec_cli import artifacts, cli
from ilrec_cli.histories import Sequences
from ilrec_cli.lm.backbone import saved_tokenizer
from ilrec_cli.lm.candidate_prompts import TEMPLATES, CandidateTemplate
from ilrec_cli.lm.candidates import CandidateExamples, CandidateLayout, CandidatePrompts
from ilrec_cli.stages import _models

SHARED = Path(os.environ.get("ILREC_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
LASTFM = SHARED / "lastfm-candidates"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not LASTFM.is_dir() and not os.environ.get("ILREC_REQUIRE_REAL_DATA"), reason=f"no {LASTFM}"),
]
ROWS = 50


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LastFM, its names as identifiers, and a model that saw a few batches: enough to be wrong in its own way."""
    folder = tmp_path_factory.mktemp("lastfm")
    common = ["--dataset", "lastfm", "--work", str(folder), "--quiet"]
    cli.invoke(["preprocess", *common, "--raw-dir", str(LASTFM), "-o", "valid_share=0.1"])
    cli.invoke(["build-ids", *common, "--scheme", "title", "--name", "titles"])
    cli.invoke(["train", *common, "--tasks", "candidates", "--method", "sft", "--name", "sft", *TINY_LM, "--max-steps", "12",
                "--learning-rate", "1e-2"])  # fmt: skip
    return folder


def test_rows_train_validate_and_test_as_said(work: Path) -> None:
    data = artifacts.read(work / "lastfm" / "data", "data")
    statistics = data.json("card.json")["statistics"]
    assert [statistics[f"{name}_targets"] for name in ("training", "validation", "test")] == [2490, 277, 2495]
    assert len(data.table("candidates")) == 2767 + 2495


def test_hit_at_1_is_a_count_by_hand_on_50_rows(work: Path) -> None:
    """From the published rows, the saved model and the templates' text alone; every candidate is a sequence of its own."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    flags = ["--dataset", "lastfm", "--work", str(work), "--quiet", "--run", "sft", "--limit-users", str(ROWS)]
    cli.invoke(["evaluate", *flags, "--candidates", "sum"])
    done = artifacts.read(work / "lastfm" / "runs" / "sft" / "eval" / f"test-cand20-sum-vocab-n{ROWS}-s0", "eval")
    folder = work / "lastfm" / "runs" / "sft" / "train" / "model"
    model, tok = AutoModelForCausalLM.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)
    published = json.loads((LASTFM / "lastfm-test.json").read_text())
    hits, seen = [], _names_of_training()
    unseen = 0
    for ranked in done.table("rankings").to_pylist():
        row = published[int(ranked["user"].split("-")[1]) - 1]
        assert ranked["target"] == row["trueSelection"].strip()
        scores = _scores(model, tok, row)
        best = [
            name
            for _, name in sorted(zip(scores, (name.strip() for name in row["itemList"]), strict=True), reverse=True)
        ]
        np.testing.assert_allclose(ranked["scores"], sorted(scores, reverse=True), rtol=1e-4)
        hits.append(best[0] == ranked["target"])
        unseen += ranked["target"] not in seen
    assert len(hits) == ROWS
    found = done.json("metrics.json")
    assert found["metrics"]["hit@1"] == pytest.approx(np.mean(hits), abs=1e-12)
    assert found["slices"]["target_in_training"]["unseen"]["events"] == unseen


def _scores(model: Any, tok: Any, row: dict[str, Any]) -> list[float]:
    def ids(text: str) -> list[int]:
        return list(tok(text, add_special_tokens=False).input_ids)

    def listed(names: list[str]) -> list[int]:
        return [token for place, name in enumerate(names) for token in (ids("\n") if place else []) + ids(name.strip())]

    before, between, after = whole(TEMPLATES[0])
    history = row["historyList"].split("::")
    prompt = [tok.bos_token_id, *ids(before), *listed(history), *ids(between), *listed(row["itemList"]), *ids(after)]
    found = []
    for name in row["itemList"]:
        path = [*ids(name.strip()), tok.eos_token_id]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + path])).logits[0, len(prompt) - 1 : -1].double()
        found.append(float(logits.log_softmax(1).gather(1, torch.tensor(path)[:, None]).sum()))
    return found


def whole(template: CandidateTemplate) -> tuple[str, str, str]:
    """The text of a prompt before the history, between it and the candidates, and after these."""
    lead = "An instruction follows. Give the answer that it asks for.\n\n### Instruction:\n"
    return lead + template.before, template.between, template.after + "\n\n### Response:"


def _names_of_training() -> set[str]:
    rows = json.loads((LASTFM / "lastfm-val.json").read_text())[:2490]
    return {name.strip() for row in rows for name in [*row["historyList"].split("::"), row["trueSelection"]]}


def test_the_published_counts_of_unseen_targets() -> None:
    """872 by the whole validation file, 927 by the part that trains; every name is among some row's candidates."""
    valid, test = (json.loads((LASTFM / f"lastfm-{name}.json").read_text()) for name in ("val", "test"))
    known = {name.strip() for row in valid for name in [*row["historyList"].split("::"), row["trueSelection"]]}
    targets = [row["trueSelection"].strip() for row in test]
    assert sum(name not in known for name in targets) == 872
    trained = _names_of_training()
    assert sum(name not in trained for name in targets) == 927


def test_the_tries_paths_are_what_batches_hold_for_every_name(work: Path) -> None:
    """Each of the 4,606 names as target, in history and among candidates: its own tokens, whole, and the end token."""
    data = artifacts.read(work / "lastfm" / "data", "data")
    ids = artifacts.read(work / "lastfm" / "ids" / "titles", "ids")
    tok = saved_tokenizer(work / "lastfm" / "runs" / "sft" / "train" / "model")
    catalogue, titles = _models.catalogue(ids, tok), data.table("items")["title"].to_pylist()
    items = len(titles)
    assert items == 4606
    sequences = Sequences(
        np.stack([np.roll(np.arange(items), 1), np.arange(items)], 1).ravel(), np.arange(items + 1) * 2
    )
    offered = (np.arange(items)[:, None] + np.arange(20)) % items
    examples = CandidateExamples.per_target(
        sequences, (np.arange(items), np.ones(items, dtype=np.int64)), 20,
        CandidatePrompts(CandidateLayout.of(tok), catalogue), lambda epoch: offered, seed=0,
    )  # fmt: skip
    for start in range(0, items, 512):
        rows = np.arange(start, min(start + 512, items))
        batch = examples.batch(rows)
        assert batch.mask_BS.sum(1).tolist() == examples.lengths()[rows].tolist()
        node, last = batch.node_N, catalogue.trie.step(batch.node_N, batch.target_N)
        event = batch.event_N.numpy()
        ends = np.append(event[1:] != event[:-1], True)
        assert (catalogue.trie.leaf_of(torch.from_numpy(rows)) == last[torch.from_numpy(ends)]).all()
        assert (node[torch.from_numpy(np.insert(ends[:-1], 0, True))] == 0).all(), "answers begin at the root"
        assert (last[:-1][~ends[:-1]] == node[1:][~ends[:-1]]).all()
        texts = tok.batch_decode([row[mask.bool()] for row, mask in zip(batch.input_BS, batch.mask_BS, strict=True)], skip_special_tokens=True)  # fmt: skip
        for item, text in zip(rows.tolist(), texts, strict=True):
            before, between, after = whole(TEMPLATES[examples.templates[item]])
            names = "\n".join(titles[other] for other in offered[item])
            assert text == f"{before}{titles[item - 1]}{between}{names}{after}{titles[item]}"
