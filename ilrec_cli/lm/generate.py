"""Free text by beam search, and samples of items or of text; a prompt is run once, whatever the number of its responses.

Shapes: B prompts, S prompt tokens, K beams or samples, T new tokens, C children of a node, V vocabulary, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ilrec_cli.lm.logits import Logits
from ilrec_cli.lm.tree import open_prompts
from ilrec_cli.lm.walk import Normalize, Walk, children
from ilrec_cli.ranking import order_key, top_k
from ilrec_cli.trie import ItemTrie


class Samples(NamedTuple):
    """Responses: the leaf each ends in, its tokens (padded with -1) and their log-probabilities (padded with 0)."""

    leaf_BK: Tensor
    token_BKT: Tensor
    log_prob_BKT: Tensor


@torch.inference_mode()
def sample(
    model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, trie: ItemTrie, *, samples: int,
    generator: torch.Generator | Sequence[torch.Generator], temperature: float = 1.0, normalize: Normalize = "vocab",
) -> Samples:  # fmt: skip
    """Items drawn with replacement, token by token among those that continue an item.

    `temperature` divides the logits of the choice; the log-probabilities returned are the model's own, at temperature
    1, summing to one over what `normalize` says. The draws depend on the generator, the number of prompts and `samples`;
    with a generator for each prompt they are the same whatever prompts are beside it.
    """
    _check(samples, temperature)
    device, rows = input_ids_BS.device, len(input_ids_BS)
    trie = trie if trie.order.device == device else trie.to(device)
    walk = Walk(model, (input_ids_BS, attention_mask_BS), trie, normalize, samples)
    uniform_BKT = _uniform((rows, samples, trie.max_depth), generator, device)
    node_BK = torch.zeros(rows, samples, dtype=torch.long, device=device)
    parent_BK = torch.zeros_like(node_BK)  # the first tokens of all samples continue the one root of their prompt
    leaf_BK, tokens, log_probs = torch.full_like(node_BK, -1), [], []
    for step in range(trie.max_depth):
        token_BKC, child_BKC = children(trie, node_BK)
        at_root = token_BKC[:, :1] if step == 0 else token_BKC
        log_prob_BKC = walk.log_prob(at_root).expand(token_BKC.shape)
        weight_BKC = (log_prob_BKC.double() / temperature).masked_fill(child_BKC < 0, -torch.inf)
        chosen_BK1 = _draw(weight_BKC, uniform_BKT[:, :, step])
        real_BK = node_BK >= 0
        tokens.append(torch.where(real_BK, token_BKC.gather(2, chosen_BK1)[:, :, 0], -1))
        log_probs.append(torch.where(real_BK, log_prob_BKC.gather(2, chosen_BK1)[:, :, 0], 0.0))
        node_BK = torch.where(real_BK, child_BKC.gather(2, chosen_BK1)[:, :, 0], -1)
        ends_BK = trie.is_leaf(node_BK)
        leaf_BK = torch.where(ends_BK, node_BK, leaf_BK)
        node_BK = torch.where(ends_BK, -1, node_BK)
        if not (node_BK >= 0).any():
            break
        walk.advance(node_BK, tokens[-1].clamp(min=0), parent_BK)
        parent_BK = torch.arange(samples, device=device).expand(rows, samples)
    return Samples(leaf_BK, torch.stack(tokens, 2), torch.stack(log_probs, 2))


@torch.inference_mode()
def sample_text(
    model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, *, samples: int, max_new_tokens: int, end_token: int,
    generator: torch.Generator | Sequence[torch.Generator], temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(token_BKT, log_prob_BKT): free responses up to the end token (included) or the limit, padded with -1 and 0.

    Log-probabilities are the model's own, at temperature 1.
    """
    _check(samples, temperature)
    device, rows = input_ids_BS.device, len(input_ids_BS)
    logits = Logits(model)
    prompts = open_prompts(model, input_ids_BS, attention_mask_BS, samples * (max_new_tokens - 1))
    uniform_BKT = _uniform((rows, samples, max_new_tokens), generator, device)
    hidden_BKD = prompts.last_BD[:, None].expand(-1, samples, -1)
    parent_BK = torch.zeros(rows, samples, dtype=torch.long, device=device)
    going_BK, tokens, log_probs = torch.ones_like(parent_BK, dtype=torch.bool), [], []
    for step in range(max_new_tokens):
        drawn = [
            _chosen(part_NV, uniform_N, temperature)
            for part_NV, uniform_N in logits.parts(hidden_BKD.flatten(0, 1), uniform_BKT[:, :, step].flatten())
        ]
        token_BK, log_prob_BK = (torch.cat(part).view(rows, samples) for part in zip(*drawn, strict=True))
        tokens.append(torch.where(going_BK, token_BK, -1))
        log_probs.append(torch.where(going_BK, log_prob_BK, 0.0))
        going_BK = going_BK & (token_BK != end_token)
        if not going_BK.any() or step == max_new_tokens - 1:
            break
        hidden_BKD = prompts.extend(token_BK, parent_BK)
        parent_BK = torch.arange(samples, device=device).expand(rows, samples)
    return torch.stack(tokens, 2), torch.stack(log_probs, 2)


@torch.inference_mode()
def generate(
    model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, *, beams: int, max_new_tokens: int, end_token: int,
    min_new_tokens: int = 0, length_penalty: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(token_BKT, score_BK): the best free responses, best first, end token included, padded with -1 and -inf.

    As `transformers.generate` with `early_stopping=False`; one beam is greedy search. Responses that reach the limit count
    as they are. A score is the sum of log-probabilities divided by (length ** length_penalty).
    """
    _check(beams, 1.0)
    logits = Logits(model)
    prompts = open_prompts(model, input_ids_BS, attention_mask_BS, beams * (max_new_tokens - 1))
    done = _Done(len(input_ids_BS), beams, max_new_tokens, input_ids_BS.device)
    hidden_BKD, score_BK = prompts.last_BD[:, None], torch.zeros(len(input_ids_BS), 1, device=input_ids_BS.device)
    token_BKT, row_B = done.token_BKT[:, :1], torch.arange(len(input_ids_BS), device=input_ids_BS.device)
    for length in range(1, max_new_tokens + 1):
        banned = end_token if length <= min_new_tokens else None
        score_Bk, token_Bk, parent_Bk = _candidates(logits, hidden_BKD, score_BK, 2 * beams, banned)
        token_BkT = token_BKT.gather(1, parent_Bk[:, :, None].expand(-1, -1, max_new_tokens)).clone()
        token_BkT[:, :, length - 1] = token_Bk
        ends_Bk = (token_Bk == end_token) | (length == max_new_tokens)
        final = (score_Bk / length**length_penalty).masked_fill(~(ends_Bk & done.open_B1[row_B]), -torch.inf)
        done.add(row_B, token_BkT[:, :beams], final[:, :beams])
        place = torch.argsort(ends_Bk.int(), dim=1, stable=True)[:, :beams]
        score_BK = score_Bk.masked_fill(ends_Bk, -torch.inf).gather(1, place)
        open_B1 = done.open_B1[row_B] & (score_BK[:, :1] / length**length_penalty > done.score_BK[row_B, -1:])
        if beams == 1:
            open_B1 &= ~ends_Bk[:, :1]
        done.open_B1[row_B] = open_B1
        going_B = open_B1.nonzero()[:, 0]
        if not len(going_B):
            break
        token_BKT = token_BkT.gather(1, place[:, :, None].expand(-1, -1, max_new_tokens))
        last_BK, parent_BK = token_Bk.gather(1, place), parent_Bk.gather(1, place)
        if 2 * len(going_B) <= len(row_B):  # the others are done, and need not be run any more
            row_B, token_BKT, score_BK = row_B[going_B], token_BKT[going_B], score_BK[going_B]
            last_BK, parent_BK = last_BK[going_B], parent_BK[going_B]
            prompts.select(going_B)
        hidden_BKD = prompts.extend(last_BK, parent_BK)
    return done.token_BKT, done.score_BK


class _Done:
    """Finished responses, best first, and which prompts can still improve on them."""

    def __init__(self, rows: int, beams: int, tokens: int, device: torch.device):
        self.token_BKT = torch.full((rows, beams, tokens), -1, device=device)
        self.score_BK = torch.full((rows, beams), -torch.inf, device=device)
        self.open_B1 = torch.ones(rows, 1, dtype=torch.bool, device=device)

    def add(self, row_B: Tensor, token_BKT: Tensor, score_BK: Tensor) -> None:
        """More responses of some prompts."""
        tokens, scores = (
            torch.cat([self.token_BKT[row_B], token_BKT], 1),
            torch.cat([self.score_BK[row_B], score_BK], 1),
        )
        place = top_k(scores, self.score_BK.shape[1])
        score_BK = scores.gather(1, place)
        token_BKT = tokens.gather(1, place[:, :, None].expand(-1, -1, tokens.shape[2]))
        self.score_BK[row_B] = score_BK
        self.token_BKT[row_B] = token_BKT.masked_fill(score_BK[:, :, None] == -torch.inf, -1)


def _candidates(
    logits: Logits, hidden_BKD: Tensor, score_BK: Tensor, keep: int, banned: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(score, token, parent) of the best continuations of all beams; ties by the lower beam, then token."""
    rows, beams = score_BK.shape
    found = []
    for (part_NV,) in logits.parts(hidden_BKD.flatten(0, 1)):
        norm_N1 = part_NV.logsumexp(1, keepdim=True)
        if banned is not None:
            part_NV = part_NV.index_fill(1, torch.tensor([banned], device=part_NV.device), -torch.inf)
        token_Nk = top_k(part_NV, keep)
        found.append((part_NV.gather(1, token_Nk) - norm_N1, token_Nk))
    log_prob, token = (torch.cat(part).view(rows, beams, -1) for part in zip(*found, strict=True))
    total = (score_BK[:, :, None] + log_prob).flatten(1)
    token, parent = token.flatten(1), torch.arange(total[0].numel(), device=total.device) // log_prob.shape[2]
    order = order_key(total, parent * logits.vocabulary + token)
    place = order.topk(min(keep, total.shape[1]), dim=1).indices
    return total.gather(1, place), token.gather(1, place), parent.expand_as(token).gather(1, place)


def _chosen(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    token_N1 = _draw(logits_NV.double() / temperature, uniform_N)
    return token_N1[:, 0], logits_NV.log_softmax(1).gather(1, token_N1)[:, 0]


def _draw(log_weight: Tensor, uniform: Tensor) -> Tensor:
    """The place of the last axis on which a uniform number falls; places of no weight are never drawn."""
    dead = log_weight.isneginf().all(-1, keepdim=True)
    edge = log_weight.masked_fill(dead, 0.0).softmax(-1).cumsum(-1)
    return torch.searchsorted(edge, (uniform[..., None] * edge[..., -1:]).contiguous(), right=True).clamp(
        max=edge.shape[-1] - 1
    )


def _uniform(
    shape: tuple[int, ...], generator: torch.Generator | Sequence[torch.Generator], device: torch.device
) -> Tensor:  # fmt: skip
    if not isinstance(generator, torch.Generator):
        return torch.stack([_uniform(shape[1:], own, device) for own in generator])
    return torch.rand(shape, dtype=torch.float64, generator=generator, device=generator.device).to(device)


def _check(count: int, temperature: float) -> None:
    if count < 1 or not temperature > 0:
        raise ValueError(f"{count} responses at temperature {temperature}: expected at least 1, above 0")
