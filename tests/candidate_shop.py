"""Rows of candidates as a raw file holds them, and their prompts and scores by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ilrec_cli import artifacts
from ilrec_cli.lm.candidate_prompts import TEMPLATES, CandidateTemplate

ITEMS = 24
# Some names lie inside others.
NAMES = [f"Tune {chr(65 + place)}{' Live' if place % 5 == 0 else ''}" for place in range(ITEMS - 4)] + ["Tune", "Live", "A, B & C", "Tune A"]  # fmt: skip


def files(folder: Path, offered: int = 6) -> Path:
    """After each item comes the next; four in five times the target is one of the first half. Two files, as LastFM's."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("val", 60), ("test", 30)):
        rows = []
        for _ in range(count):
            start = int(rng.integers(ITEMS - (6 if split == "val" else 4)))  # some targets only the test has
            history, target = [(start + step) % ITEMS for step in range(3)], (start + 3) % ITEMS
            others = rng.permutation([item for item in range(ITEMS) if item not in (*history, target)])[: offered - 1]
            listed = rng.permutation([target, *others]).tolist()
            rows.append({"historyList": "::".join(NAMES[item] for item in history),
                         "itemList": [NAMES[item] for item in listed], "trueSelection": NAMES[target]})  # fmt: skip
        (folder / f"toy-{split}.json").write_text(json.dumps(rows))
    return folder


def rows_of(work: Path) -> list[dict[str, Any]]:
    return list(json.loads((work / "raw" / "toy-test.json").read_text()))


def evaluation(work: Path, run: str, protocol: str) -> artifacts.Artifact:
    kind = "cf" if run in ("sasrec", "popularity") else "runs"
    return artifacts.read(work / "toy" / kind / run / "eval" / protocol, "eval")


def whole(template: CandidateTemplate) -> tuple[str, str, str]:
    """The text of a prompt before the history, between it and the candidates, and after these."""
    lead = "An instruction follows. Give the answer that it asks for.\n\n### Instruction:\n"
    return lead + template.before, template.between, template.after + "\n\n### Response:"


def prompt_of(tok: Any, row: dict[str, Any], template: int = 0) -> list[int]:
    """The row's prompt, spelled with the saved tokenizer and nothing of ours but the templates' text."""

    def ids(text: str) -> list[int]:
        return list(tok(text, add_special_tokens=False).input_ids)

    def listed(names: list[str]) -> list[int]:
        return [token for place, name in enumerate(names) for token in (ids("\n") if place else []) + ids(name)]

    before, between, after = whole(TEMPLATES[template])
    history = row["historyList"].split("::")
    return [tok.bos_token_id, *ids(before), *listed(history), *ids(between), *listed(row["itemList"]), *ids(after)]


def saved(work: Path, run: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    folder = work / "toy" / "runs" / run / "train" / "model"
    return AutoModelForCausalLM.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)


@torch.no_grad()
def by_hand(model: Any, tok: Any, row: dict[str, Any], template: int = 0) -> list[tuple[float, int]]:
    """(log-probability, tokens) of every candidate of a row, each run by itself."""
    prompt, found = prompt_of(tok, row, template), []
    for name in row["itemList"]:
        path = [*tok(name, add_special_tokens=False).input_ids, tok.eos_token_id]
        logits = model(input_ids=torch.tensor([prompt + path])).logits[0, len(prompt) - 1 : -1].double()
        log_prob = logits.log_softmax(1).gather(1, torch.tensor(path)[:, None])
        found.append((float(log_prob.sum()), len(path)))
    return found
