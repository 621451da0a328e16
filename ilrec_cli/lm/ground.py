"""Grounding: the items whose titles lie nearest to what a model wrote, as BIGRec ranks (arXiv 2308.08434).

Distances are Euclidean and come from differences in float64, not from products and norms: last hidden states are long and
much alike, so that the usual shortcut would lose the digits in which titles differ.

Shapes: B texts, S tokens, D dimensions, U different titles, I items, k listed items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ilrec_cli.lm.logits import language_model
from ilrec_cli.lm.model import decoder
from ilrec_cli.ranking import columns

CELLS = 1 << 22  # texts x items at a time: bounds memory, not the result


class Titles:
    """The catalogue in the space of an encoder: a vector for every different title, and which title each item has."""

    def __init__(self, vector_UD: Tensor, title_I: Tensor):
        self.vector_UD, self.title_I = vector_UD.double(), title_I

    def distances(self, text_BD: Tensor) -> Tensor:
        """distance_BI (float64): items of one title have the very same."""
        text_BD = text_BD.to(self.vector_UD)
        distance_BU = torch.cdist(text_BD, self.vector_UD, compute_mode="donot_use_mm_for_euclid_dist")
        return distance_BU.index_select(1, self.title_I)

    def rows(self) -> int:
        """How many texts are compared at a time."""
        return max(1, CELLS // len(self.title_I))


def evidence(score_XI: Tensor) -> Tensor:
    """log(1 + S'): popularity ([1, I]) or a collaborative model's scores ([B, I]), scaled to 0..1 in each row."""
    return _scaled(score_XI.double()).log1p()


def adjusted(distance_BI: Tensor, evidence_XI: Tensor, gamma: float) -> Tensor:
    """D' / (1 + S') ** gamma, where D' is the distance scaled to 0..1 in each row (BIGRec's adjust_pda.py, adjust_ci.py)."""
    return _scaled(distance_BI) * (-gamma * evidence_XI).exp()


def nearest(score_BI: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(item_Bk, score_Bk) of the k least scores, the least first; among equal ones the lower item comes first."""
    if score_BI.isnan().any():
        raise ValueError("distances hold NaN: the embeddings or their number format are broken; nothing can be ranked")
    k = min(k, score_BI.shape[1])
    last_B1 = score_BI.kthvalue(k, dim=1, keepdim=True).values
    item_BC = columns(score_BI <= last_B1)
    score_BC = score_BI.gather(1, item_BC.clamp(min=0)).masked_fill(item_BC < 0, torch.inf)
    score_Bk, place_Bk = (part[:, :k] for part in score_BC.sort(dim=1, stable=True))
    return item_BC.gather(1, place_Bk), score_Bk


def title_ranks(score_BI: Tensor, title_I: Tensor, target_B: Tensor) -> Tensor:
    """0-based rank of each target among all items as `nearest` lists them; items of one title share the best one's."""
    same_BI = title_I == title_I[target_B][:, None]
    best_B1 = score_BI.masked_fill(~same_BI, torch.inf).amin(1, keepdim=True)
    level_BI = score_BI == best_B1
    first_B1 = (level_BI & same_BI).int().argmax(1, keepdim=True)
    item_I = torch.arange(len(title_I), device=score_BI.device)
    return ((score_BI < best_B1) | (level_BI & (item_I < first_B1))).sum(1)


def ranks_by_gamma(
    distance_BI: Tensor, evidence_XI: Tensor, gammas: Iterable[float], title_I: Tensor, target_B: Tensor
) -> Tensor:
    """rank_GB: `title_ranks` of the targets under every gamma."""
    near_BI = _scaled(distance_BI)
    return torch.stack([title_ranks(near_BI * (-gamma * evidence_XI).exp(), title_I, target_B) for gamma in gammas])


@torch.inference_mode()
def last_states(model: Any, tokenizer: Any, texts: list[str], batch_size: int) -> Tensor:
    """state_BD (float32): the last hidden state, behind the final norm, at the last token of each text.

    Texts begin as the tokenizer begins them (with <s> for Llama, with nothing for Qwen), and have no end token. An empty
    text of a tokenizer that puts nothing before it gives zeros.
    """
    stack = decoder(language_model(model))
    device = language_model(model).get_input_embeddings().weight.device
    tokens = [list(row) for row in tokenizer(texts, add_special_tokens=True, verbose=False).input_ids] if texts else []
    order = sorted((row for row in range(len(tokens)) if tokens[row]), key=lambda row: -len(tokens[row]))
    state_BD = torch.zeros(len(texts), stack.config.get_text_config().hidden_size, device=device)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        length_B = torch.tensor([len(tokens[row]) for row in rows], device=device)
        width = int(length_B[0])
        # On the right, where a causal model does not look, any token will do for padding.
        input_BS = torch.tensor([tokens[row] + [0] * (width - len(tokens[row])) for row in rows], device=device)
        mask_BS = (torch.arange(width, device=device) < length_B[:, None]).long()
        hidden_BSD = stack(input_ids=input_BS, attention_mask=mask_BS, use_cache=False).last_hidden_state
        state_BD[rows] = hidden_BSD[torch.arange(len(rows), device=device), length_B - 1].float()
    return state_BD


def _scaled(value_XI: Tensor) -> Tensor:
    """Each row from 0 to 1; zeros where all its values are equal."""
    low_X1, high_X1 = value_XI.amin(1, keepdim=True), value_XI.amax(1, keepdim=True)
    span_X1 = high_X1 - low_X1
    return (value_XI - low_X1) / torch.where(span_X1 > 0, span_X1, 1.0)
