"""Losses over items, each the mean over supervised places. Shapes: N places, D width, I items, S drawn negatives.

With `softmax` every item is scored, an N x I matrix. `sampled` and `gbce` score each place's target and S items drawn
uniformly, the same for the whole batch: memory is N x S whatever the catalogue.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ilrec_cli.cf._settings import ItemLoss
from ilrec_cli.cf._softmax import softmax_loss


def item_loss(
    config: ItemLoss, hidden_ND: Tensor, target_N: Tensor, item_ID: Tensor, bias_I: Tensor | None = None
) -> Tensor:
    """The configured loss of scores hidden @ item.T + bias; negatives come from torch's generator."""
    items = len(item_ID)
    if config.loss == "softmax" or items == 1:
        return softmax_loss(hidden_ND, target_N, item_ID, bias_I)
    drawn_S = torch.randint(items, (config.n_negatives,), device=item_ID.device)
    positive_N, negative_NS = drawn_scores(hidden_ND, target_N, drawn_S, item_ID, bias_I)
    if config.loss == "sampled":
        return sampled_softmax(positive_N, negative_NS, items)
    return gbce(positive_N, negative_NS, items, config.gbce_t)


def drawn_scores(
    hidden_ND: Tensor, target_N: Tensor, drawn_S: Tensor, item_ID: Tensor, bias_I: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(positive_N, negative_NS) in float32; a drawn item that is the place's target is no negative there: -inf."""
    chosen = torch.cat([target_N, drawn_S])
    # One look-up: its gradient is one dense table, which a million items make the costliest tensor of the step.
    row_CD = F.embedding(chosen, item_ID)
    row_ND, row_SD = row_CD[: len(target_N)], row_CD[len(target_N) :]
    positive_N, negative_NS = (hidden_ND * row_ND).sum(1).float(), (hidden_ND @ row_SD.T).float()
    if bias_I is not None:
        positive_N = positive_N + bias_I.index_select(0, target_N)
        negative_NS = negative_NS + bias_I.index_select(0, drawn_S)
    return positive_N, negative_NS.masked_fill(target_N[:, None] == drawn_S, -math.inf)


def sampled_softmax(positive_N: Tensor, negative_NS: Tensor, items: int) -> Tensor:
    """Cross-entropy with the other items' sum of exponentials estimated, without bias, from the negatives drawn.

    The negatives left at a place are uniform over the I - 1 other items, so each stands for (I - 1) / left of them: the
    log-Q correction (Y. Bengio, J.-S. Senecal, "Adaptive importance sampling", 2008). The target is no draw: its own
    score is not corrected.
    """
    left_N = (negative_NS > -math.inf).sum(1).clamp(min=1)
    correction_N1 = (math.log(items - 1) - left_N.log())[:, None]
    logits = torch.cat([positive_N[:, None], negative_NS + correction_N1], dim=1)
    return (logits.logsumexp(1) - positive_N).mean()


def gbce(positive_N: Tensor, negative_NS: Tensor, items: int, t: float) -> Tensor:
    """Generalised binary cross-entropy: A. Petrov, C. Macdonald, RecSys 2023, arXiv 2308.07192, eq. 8 to 10.

    Mean over places of -(beta log sigmoid(s+) + sum log(1 - sigmoid(s-))) / (S + 1).
    """
    drawn = negative_NS.shape[1]
    rate = min(1.0, drawn / (items - 1))  # alpha
    beta = rate * (t * (1 - 1 / rate) + 1 / rate)
    return -(beta * F.logsigmoid(positive_N) + F.logsigmoid(-negative_NS).sum(1)).mean() / (drawn + 1)
