"""Models that rank the candidates of events: by collaborative scores, by log-probabilities, by what they write.

Shapes: E events, B rows, C candidates, I items, k listed items.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ilrec_cli import devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.cf._rank import CHUNK_SCORES
from ilrec_cli.errors import UserError
from ilrec_cli.histories import histories, targets
from ilrec_cli.lm import backbone
from ilrec_cli.lm.candidate_rank import CandidateRanker, Prompts, rankings
from ilrec_cli.lm.candidates import CandidateLayout, CandidatePrompts
from ilrec_cli.lm.early_exit import early_exit
from ilrec_cli.lm.examples import Catalogue
from ilrec_cli.lm.heads import open_heads
from ilrec_cli.lm.model import final_norm
from ilrec_cli.ranking import Rankings, top_k
from ilrec_cli.settings import Evaluate
from ilrec_cli.stages import _inputs, _models
from ilrec_cli.stages._candidate_sets import Sets
from ilrec_cli.stages._evaluation import Opened, Plan
from ilrec_cli.stages._texts import Named

SHOWN = ("hit@1", "hit@5", "ndcg@5", "ndcg@10", "mrr@10")
WRITTEN = ("hit@1", "valid", "substring_hit@1", "substring_valid")


def chooses(train: Path) -> bool:
    """Whether the run of a folder was trained to choose among candidates."""
    return "candidates" in json.loads((train / "layout.json").read_text(encoding="utf-8"))


def templates(run: Artifact) -> int:
    """How many prompts a run was trained with."""
    found = run.json("layout.json")
    return len(found["candidates"]["templates"]) if "candidates" in found else len(_models.trained_layouts(run))


def suits(train: Path, asked: str | None) -> bool:
    """Whether a run can be evaluated so: `asked` is --candidates. Any run has log-probabilities of candidates."""
    return chooses(train) == (asked is not None) or asked in ("sum", "mean")


def refuse(config: Evaluate, run: Artifact, ids: Artifact) -> None:
    """`UserError` for a run that does not write the names of candidates, or has fewer prompts."""
    count = templates(run)
    if config.template >= count:
        raise UserError(f"--template {config.template}: '{run.name}' was trained with prompts 0 to {count - 1}")
    if config.candidates == "generate" and (not chooses(run.path) or not _models.is_text(ids)):
        raise UserError(
            f"--candidates generate: '{run.name}' was not trained to write the titles of candidates (train --tasks candidates, "
            "with build-ids --scheme title). Rank by --candidates sum"
        )


def table(results: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """(head, rows) of what is printed: metrics, and hit@1 of targets that occur in training and of those that do not."""
    written = any("valid" in found["metrics"] for found in results.values())
    shown = WRITTEN if written else SHOWN
    rows: list[list[Any]] = []
    for name, found in results.items():
        parts = found["slices"]["target_in_training"]
        sliced = [parts[part]["metrics"]["hit@1"] if part in parts else "-" for part in ("seen", "unseen")]
        rows.append([name, *(found["metrics"].get(metric, "-") for metric in shown), *sliced])
    return ["run", *shown, "hit@1 seen", "hit@1 unseen"], rows


def names(ids: Artifact) -> list[str]:
    """Every item's identifier as text: its title, where titles are the identifiers."""
    return ["".join(tokens) for tokens in ids.table("item_ids")["tokens"].to_pylist()]


def open_cf(plan: Plan, device: torch.device) -> Opened:
    """A collaborative model: its scores of each event's candidates."""
    about, sequences, sets = _models.facts(plan.data), _inputs.sequences(plan.data), Sets.of(plan.data)
    model, size = _models.open_cf(plan.model, plan.data, device), max(1, CHUNK_SCORES // about.items)

    @torch.inference_mode()
    def rank(user_B: np.ndarray, end_B: np.ndarray) -> Rankings:
        candidate_BC = torch.from_numpy(np.sort(sets.find(user_B, end_B), axis=1)).to(device)
        history_BT = torch.from_numpy(histories(sequences, user_B, end_B, about.max_history)).to(device)
        rows = zip(
            *(torch.split(part, size) for part in (history_BT, torch.from_numpy(user_B).to(device), candidate_BC)),
            strict=True,
        )
        score_BC = torch.cat([model.scores(history, user).gather(1, candidate) for history, user, candidate in rows])
        place_BC = top_k(score_BC, sets.size)
        item_Bk, score_Bk = (part.gather(1, place_BC).cpu().numpy() for part in (candidate_BC, score_BC))
        return rankings(item_Bk, score_Bk, targets(sequences, user_B, end_B))

    return Opened(rank, np.arange(about.items))


def open_lm(plan: Plan, ids: Artifact, device: torch.device) -> Opened:
    """A language model: log-probabilities of the candidates, or what it writes, in the prompts it was trained on."""
    ranker, tokenizer = open_ranker(plan.model, ids, plan.data, plan.rules, device)
    sequences, max_history = _inputs.sequences(plan.data), plan.data.json("card.json")["max_history"]
    sets, rules, known = Sets.of(plan.data), plan.rules, names(ids)
    titles = set(known)

    def rank(user_B: np.ndarray, end_B: np.ndarray) -> Rankings | Named:
        candidate_BC, target_B = sets.find(user_B, end_B), targets(sequences, user_B, end_B)
        history_BT = histories(sequences, user_B, end_B, max_history)
        if rules["search"] == "scores":
            mean = rules["length_penalty"] == 1.0
            return rankings(*ranker.rank(history_BT, candidate_BC, mean=mean), target_B)
        found = ranker.write(history_BT, candidate_BC, beams=rules["text_beams"], tokenizer=tokenizer, names=known)
        score_Bk, text_B = np.zeros(found.item_Bk.shape, dtype=np.float32), np.array(found.text_B, dtype=object)
        is_title_B = np.array([text in titles for text in found.text_B])
        return Named(*rankings(found.item_Bk, score_Bk, target_B), text_B, is_title_B, found.contained_B)

    trie = ranker.catalogue.trie
    return Opened(rank, trie.leaf_of(torch.arange(trie.items)).numpy())


def open_ranker(
    run: Artifact, ids: Artifact, data: Artifact, rules: dict[str, Any], device: torch.device
) -> tuple[CandidateRanker, Any]:
    """A trained model that ranks candidates, and its tokenizer. One trained on the whole catalogue is shown none."""
    opened = backbone.open_saved(run.path / "model", devices.DTYPES[rules["dtype"]])
    items, layer = _models.catalogue(ids, opened.tokenizer), rules.get("exit_layer")
    model = opened.model.to(device).eval()
    if layer is not None:
        heads = open_heads(run.path, final_norm(backbone.causal_lm(model)))
        model = early_exit(model, layer, None if heads is None else heads.of(layer))
    scope = items.trie.tokens().to(device) if rules.get("normalize") == "ids" else None
    popularity = _inputs.training_popularity(data)
    prompts = _prompts(run, items, rules.get("template", 0))
    return CandidateRanker(model, items, prompts, popularity, scope_U=scope), opened.tokenizer


def _prompts(run: Artifact, items: Catalogue, template: int) -> Prompts:
    """How the run was asked in training."""
    if not chooses(run.path):
        layout = _models.trained_layout(run, template)
        return lambda history_BT, candidate_BC: layout.prompts(items, history_BT)
    made = CandidatePrompts(CandidateLayout.from_dict(run.json("layout.json")["candidates"]), items)
    return lambda history_BT, candidate_BC: made.padded(history_BT, candidate_BC, template)
