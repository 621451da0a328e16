"""Evaluation of a model that writes freely (BIGRec): its best text, grounded to the nearest titles, adjusted where asked.

Texts are written once, under the protocol without adjustment; adjusted ones rank what was written again.
Shapes: B events, I items, k listed items, G values of gamma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from ilrec_cli import artifacts, devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, histories, targets
from ilrec_cli.lm import backbone, ground
from ilrec_cli.lm.rank import Ranker
from ilrec_cli.metrics import ranking_metrics
from ilrec_cli.settings import Evaluate
from ilrec_cli.stages import _evaluation, _grounding, _inputs, _models, _protocol, _texts
from ilrec_cli.stages._evaluation import Opened, Plan
from ilrec_cli.stages._grounding import Encoder, Grounding
from ilrec_cli.stages._texts import Written
from ilrec_cli.stages._workers import Workers

GRID = (
    *(number / 100 for number in range(101)),
    *map(float, range(2, 100)),
)  # BIGRec's for games, and 0: no adjustment
CHOSEN_BY = "ndcg@10"
Split = Literal["test", "valid"]
Evidence = Callable[[np.ndarray, np.ndarray], torch.Tensor]  # (user_B, end_B) -> evidence_XI


@dataclass(frozen=True)
class Asked:
    """One model to be evaluated, with all that can be refused looked at."""

    config: Evaluate
    model: Artifact
    data: Artifact
    ids: Artifact
    encoder: Encoder
    cf: Artifact | None
    ks: tuple[int, ...]


@dataclass(frozen=True)
class Task(Asked):
    """The same on its device: what is opened is opened when it is needed, and once."""

    device: torch.device
    console: Console

    @cached_property
    def ranker(self) -> Ranker:
        dtype = devices.DTYPES[self.config.dtype]
        return _models.open_ranker(
            self.model, self.ids, self.data, device=self.device, dtype=dtype, beams=self.config.text_beams
        )

    @cached_property
    def grounding(self) -> Grounding:
        return _grounding.opened(self.encoder, self.model, self.ranker, self.config, self.console)

    @cached_property
    def evidence(self) -> Evidence:
        """log(1 + S') of every item: of its training interactions, or of the collaborative model's scores."""
        if self.cf is None:
            popularity = torch.from_numpy(_inputs.training_popularity(self.data)).to(self.device)
            shared_1I = ground.evidence(popularity[None])
            return lambda user_B, end_B: shared_1I
        scorer = _models.open_cf(self.cf, self.data, self.device)

        def scored(user_B: np.ndarray, end_B: np.ndarray) -> torch.Tensor:
            history, user = (torch.from_numpy(each).to(self.device) for each in (self.histories(user_B, end_B), user_B))
            return ground.evidence(scorer.scores(history, user))

        return scored

    @cached_property
    def sequences(self) -> Sequences:
        return _inputs.sequences(self.data)

    def histories(self, user_B: np.ndarray, end_B: np.ndarray) -> np.ndarray:
        return histories(self.sequences, user_B, end_B, self.data.json("card.json")["max_history"])

    def targets(self, user_B: np.ndarray, end_B: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(targets(self.sequences, user_B, end_B)).to(self.device)

    def plan(self, rules: dict[str, Any], **more: Any) -> Plan:
        others = {} if self.encoder.ids is None else {"encoder": self.encoder.ids}
        others |= {"cf": self.cf} if self.cf is not None and "cf" in rules else {}
        return Plan(
            self.model, self.data, rules, "run", self.ks, self.config.batch_size, self.config.overwrite,
            {"method": self.model.config["method"], **more}, others=others,
        )  # fmt: skip


def asked(config: Evaluate, model: Artifact, data: Artifact, ks: tuple[int, ...]) -> Asked:
    """What is to be evaluated; `UserError` where it cannot be."""
    ids = _inputs.ids_of_run(config, model, data)
    _refuse(model, ids)
    cf = _inputs.read_cf(config, data, config.cf) if config.adjust == "cf" else None
    return Asked(config, model, data, ids, _grounding.encoder(config, model, data), cf, ks)


def evaluate(asked: Asked, workers: Workers, console: Console) -> dict[str, Any]:
    """What metrics.json says of the model's texts, adjusted where the configuration says so."""
    task = Task(**vars(asked), device=workers.device, console=console)
    config, encoder, cf = task.config, task.encoder, task.cf

    def written(split: Split) -> tuple[Plan, dict[str, Any]]:
        plain = replace(config, split=split, adjust=None)
        plan = task.plan(_protocol.of_text(plain, encoder.name, encoder.words))
        return plan, _evaluation.run(plan, lambda: _writer(task, plan), workers, console)

    plan, found = written(config.split)
    if config.adjust is None:
        return found
    gamma = "auto" if config.gamma == "auto" else float(config.gamma)
    rules = plan.rules | {"adjust": config.adjust, "gamma": gamma} | ({} if cf is None else {"cf": cf.name})
    chosen: dict[str, Any] = {"gamma": gamma}
    if gamma == "auto" and (config.overwrite or _evaluation.known(task.plan(rules)) is None):
        chosen = chosen_gamma(task, written("valid")[0])
    again = task.plan(rules, adjustment=chosen)
    return _evaluation.run(again, lambda: _adjuster(task, again, plan), workers, console)


def chosen_gamma(task: Task, valid: Plan) -> dict[str, Any]:
    """The gamma with the best NDCG@10 on validation events, of equal ones the least; and what it gains there."""
    texts = _by_event(valid)
    event_E, user_E, end_E = valid.events
    grounding, title_I = task.grounding, task.grounding.titles.title_I
    ranks, size = [], grounding.titles.rows()
    for start in task.console.progress(range(0, len(event_E), size), "choose gamma"):
        user_B, end_B = user_E[start : start + size], end_E[start : start + size]
        distance_BI = _distances(grounding, [texts[int(event)] for event in event_E[start : start + size]])
        ranks.append(
            ground.ranks_by_gamma(
                distance_BI, task.evidence(user_B, end_B), GRID, title_I, task.targets(user_B, end_B)
            ).cpu()
        )
    rank_GE = torch.cat(ranks, 1).numpy()
    value_G = np.array([ranking_metrics(rank_E, [10])[CHOSEN_BY].mean() for rank_E in rank_GE])
    best = int(value_G.argmax())
    found = {"gamma": GRID[best], f"valid_{CHOSEN_BY}": float(value_G[best]), "without": float(value_G[0])}
    task.console.say(
        f"{task.model.name}: gamma {found['gamma']:g}, validation {CHOSEN_BY} {value_G[best]:.4f} ({value_G[0]:.4f} without)"
    )
    return found | {"grid": "0 to 1 by 0.01, 2 to 99 by 1", "events": len(event_E)}


def _writer(task: Task, plan: Plan) -> Opened:
    """Text of the model's own for each event, and the items with the nearest titles."""
    tokenizer = backbone.saved_tokenizer(task.model.path / "model")
    length_I, most = task.ranker.catalogue.length_I, plan.rules["max_new_tokens"]
    long = int((length_I > most).sum())
    if long:
        task.console.warn(
            f"--text-tokens {most}: the titles of {long:,} of {len(length_I):,} items are longer, {length_I.max()} tokens at most "
            "with the end token; they cannot be written to their end"
        )

    def rank(user_B: np.ndarray, end_B: np.ndarray) -> Written:
        token_BT = task.ranker.write(
            task.histories(user_B, end_B), beams=plan.rules["text_beams"], max_new_tokens=plan.rules["max_new_tokens"],
            end_token=tokenizer.eos_token_id,
        )  # fmt: skip
        rows = ([token for token in row if token not in (-1, tokenizer.eos_token_id)] for row in token_BT.tolist())
        texts = [_grounding.read(row, tokenizer) for row in rows]
        return _listed(task, plan, texts, (user_B, end_B), None)

    return Opened(rank, task.grounding.title_I)


def _adjuster(task: Task, plan: Plan, source: Plan) -> Opened:
    """The texts of a finished evaluation, ranked by adjusted distances."""
    texts, (event_E, user_E, end_E) = _by_event(source), source.events
    pairs = zip(user_E.tolist(), end_E.tolist(), strict=True)
    text_of = {pair: texts[event] for pair, event in zip(pairs, event_E.tolist(), strict=True)}

    def rank(user_B: np.ndarray, end_B: np.ndarray) -> Written:
        own = [text_of[pair] for pair in zip(user_B.tolist(), end_B.tolist(), strict=True)]
        return _listed(task, plan, own, (user_B, end_B), plan.more["adjustment"]["gamma"])

    return Opened(rank, task.grounding.title_I)


def _listed(
    task: Task, plan: Plan, texts: list[str], events: tuple[np.ndarray, np.ndarray], gamma: float | None
) -> Written:
    """Lists and the targets' ranks, some rows at a time; scores are negative, so that higher is better."""
    grounding = task.grounding
    target_B = task.targets(*events)
    parts, size = [], grounding.titles.rows()
    for start in range(0, len(texts), size):
        rows = slice(start, start + size)
        score_BI = _distances(grounding, texts[rows])
        if gamma is not None:
            score_BI = ground.adjusted(score_BI, task.evidence(*(each[rows] for each in events)), gamma)
        item_Bk, score_Bk = ground.nearest(score_BI, plan.listed)
        rank_B = ground.title_ranks(score_BI, grounding.titles.title_I, target_B[rows])
        rank_B = torch.where(rank_B < item_Bk.shape[1], rank_B, -1)
        parts.append(tuple(part.cpu().numpy() for part in (item_Bk, -score_Bk, rank_B)))
    item, score, rank = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Written(item, score, rank, np.array(texts, dtype=object), grounding.is_title(texts))


def _distances(grounding: Grounding, texts: list[str]) -> torch.Tensor:
    return grounding.titles.distances(grounding.vectors(texts))


def _by_event(done: Plan) -> dict[int, str]:
    return _texts.by_event(artifacts.read(done.folder, "eval"))


def _refuse(model: Artifact, ids: Artifact) -> None:
    """Only titles can be written freely, over the whole vocabulary."""
    if not _models.is_text(ids):
        raise UserError(
            f"--decode free: '{model.name}' was trained with the identifiers '{ids.name}', which are no text. Train with "
            "titles (ilrec build-ids --scheme title), or choose runs with --run"
        )
    if model.config.get("vocab_scope") == "ids":
        raise UserError(
            f"--decode free: '{model.name}' was trained with --vocab-scope ids, so tokens outside titles have no trained logits"
        )
