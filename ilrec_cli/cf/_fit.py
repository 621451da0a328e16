"""Training of a collaborative model: all positions at once, early stopping on validation NDCG@10; full ranking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli import devices
from ilrec_cli.batching import epoch_batches
from ilrec_cli.cf._common import Facts, Scorer, make_batch
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences, Windows, histories, targets
from ilrec_cli.metrics import ranking_metrics
from ilrec_cli.ranking import LISTED, Rankings, no_rankings, rank_in, top_k

# Scores of one chunk of events: memory stays the same whatever the number of events.
CHUNK_SCORES = 8_000_000


class Events(NamedTuple):
    """Held-out events: which user, and the place of the target in the user's sequence."""

    user_E: np.ndarray
    end_E: np.ndarray


def fit(
    model: Any, sequences: Sequences, windows: Windows, valid: Events, settings: Any, *,
    facts: Facts, device: torch.device, log: Callable[[dict[str, Any]], None],
) -> int:  # fmt: skip
    """Train in place; the model ends with the weights of the best epoch, whose number is returned (0: none)."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    best, best_epoch, best_state, step = -1.0, 0, _state(model), 0
    for epoch in range(1, settings.epochs + 1):
        model.train()
        total, count = 0.0, 0
        for rows in epoch_batches(windows.lengths, settings.batch_size, settings.seed, epoch):
            torch.manual_seed(settings.seed * 1_000_003 + step)
            batch = make_batch(sequences, windows.take(rows), device)
            with devices.autocast(device, settings.dtype):
                loss = model.loss(batch)
            loss.backward()
            try:
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip, error_if_nonfinite=True)
            except RuntimeError as error:
                raise UserError(f"step {step + 1}: the gradient is not finite. Lower --learning-rate") from error
            optimizer.step()
            optimizer.zero_grad()
            targets_ = int((batch.target_BT >= 0).sum())
            total, count, step = total + float(loss.detach()) * targets_, count + targets_, step + 1
            if step == settings.max_steps:
                break
        rank_E = rank_events(model, sequences, valid, facts, device).rank_E
        score = float(ranking_metrics(rank_E, [10])["ndcg@10"].mean())
        better = score > best
        if better:
            best, best_epoch, best_state = score, epoch, _state(model)
        log({"epoch": epoch, "step": step, "loss": total / count, "valid_ndcg@10": score, "best": better})
        if epoch - best_epoch >= settings.patience or step == settings.max_steps:
            break
    model.load_state_dict(best_state)
    model.eval()
    return best_epoch


@torch.inference_mode()
def rank_events(model: Scorer, sequences: Sequences, events: Events, facts: Facts, device: torch.device) -> Rankings:
    """Rank all items for every event, a chunk of events at a time; seen items stay in."""
    if isinstance(model, torch.nn.Module):
        model.eval()
    size = max(1, CHUNK_SCORES // facts.items)
    chunks = [Events(*(part[start : start + size] for part in events)) for start in range(0, len(events.user_E), size)]
    parts = (
        [no_rankings()]
        if not chunks
        else [_rank_chunk(model, sequences, chunk, facts.max_history, device) for chunk in chunks]
    )
    return Rankings(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _rank_chunk(
    model: Scorer, sequences: Sequences, events: Events, max_history: int, device: torch.device
) -> Rankings:
    history = torch.from_numpy(histories(sequences, *events, max_history)).to(device)
    target = torch.from_numpy(targets(sequences, *events)).to(device)
    score_BI = model.scores(history, torch.from_numpy(events.user_E).to(device))
    item_Bk = top_k(score_BI, LISTED)
    return Rankings(*(part.cpu().numpy() for part in (item_Bk, score_BI.gather(1, item_Bk), rank_in(item_Bk, target))))


def _state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
