"""Trained models as functions that rank events: what an evaluation works with. Shapes: B events, k listed items."""

from __future__ import annotations

import numpy as np
import torch

from ilrec_cli import devices
from ilrec_cli.artifacts import Artifact
from ilrec_cli.cf._rank import Events, rank_events
from ilrec_cli.histories import histories, targets
from ilrec_cli.lm.guidance import Guide
from ilrec_cli.lm.rank import Ranker
from ilrec_cli.ranking import Rankings, rank_in
from ilrec_cli.stages import _inputs, _models
from ilrec_cli.stages._evaluation import Opened, Plan


def open_cf(plan: Plan, device: torch.device) -> Opened:
    """A collaborative model: every item is scored, and is its own identifier."""
    about, sequences = _models.facts(plan.data), _inputs.sequences(plan.data)
    model = _models.open_cf(plan.model, plan.data, device)

    def rank(user_B: np.ndarray, end_B: np.ndarray) -> Rankings:
        batch, seen = Events(user_B, end_B), plan.rules["seen_items"]
        return rank_events(model, sequences, batch, about, device, seen, plan.listed)

    return Opened(rank, np.arange(about.items))


def open_lm(plan: Plan, ids: Artifact, device: torch.device) -> Opened:
    """A language model: beam search over the identifiers, or all of them scored."""
    ranker = _ranker(plan, ids, device)
    sequences, max_history = _inputs.sequences(plan.data), plan.data.json("card.json")["max_history"]
    exact = plan.rules["search"] == "exact"

    def rank(user_B: np.ndarray, end_B: np.ndarray) -> Rankings:
        history_BT = histories(sequences, user_B, end_B, max_history)
        found = ranker.exact(history_BT, plan.listed) if exact else ranker.rank(history_BT, plan.listed, None, user_B)
        item_Bk, score_Bk = found
        target_B = torch.from_numpy(targets(sequences, user_B, end_B)).to(item_Bk.device)
        return Rankings(*(part.cpu().numpy() for part in (item_Bk, score_Bk, rank_in(item_Bk, target_B))))

    trie = ranker.catalogue.trie
    return Opened(rank, trie.leaf_of(torch.arange(trie.items)).numpy())


def _ranker(plan: Plan, ids: Artifact, device: torch.device) -> Ranker:
    rules, cf = plan.rules, plan.others.get("cf")
    guide = None if cf is None else Guide(_models.open_cf(cf, plan.data, device), rules["cf_guidance"])
    return _models.open_ranker(
        plan.model, ids, plan.data, device=device, dtype=devices.DTYPES[rules["dtype"]],
        beams=rules["beams"], normalize=rules["normalize"], exit_layer=rules.get("exit_layer"),
        template=rules.get("template", 0), guide=guide,
    )  # fmt: skip
