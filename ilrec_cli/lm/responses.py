"""Prompts with several responses each, and the log-probability of every response token.

A prompt and all its responses are one sequence: the prompt once, then the responses as branches behind it. A response
sees the prompt and itself, and its positions go on where the prompt's end, so it has the states it would have alone:

    prompt  p p p p  responses  a a | b b | c c
    positions 0 1 2 3           4 5 | 4 5 | 4 5
    b sees  x x x x             . . | x x | . .

The first token of each response follows the prompt's last token, and what follows a last token is not asked for: a
response of n tokens adds n - 1 to the sequence.

Shapes: B prompts, R responses of each, T tokens of the longest response, K prompt tokens of all rows one after another,
F response tokens that are fed, Q sequences, S tokens of the longest, P projected positions, C targets of one position,
D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ilrec_cli.lm import masks
from ilrec_cli.lm.backbone import causal_lm

if TYPE_CHECKING:
    from ilrec_cli.lm.model import SupervisedLM


class Responses(NamedTuple):
    """What one forward pass sees; made by `pack`. `extra` is what the loss needs besides, one row per prompt."""

    input_QS: Tensor
    segment_QS: Tensor  # 0: prompt, 1 and on: the response, -1: padding
    place_QS: Tensor  # position ids
    position_P: Tensor  # flat index (row * S + column) of the positions that are projected
    target_PC: Tensor  # response tokens that follow each of them; padded with -1
    index_BRT: Tensor  # where in target_PC (flat) each response token stands; -1 behind a response's end
    branched: bool  # several responses in a sequence
    extra: dict[str, Tensor]

    def to(self, device: torch.device) -> Responses:
        """On the device; a GPU copies from pinned memory while the host goes on."""

        def moved(part: Tensor) -> Tensor:
            return part.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else part.to(device)

        parts: dict[str, Any] = {name: moved(part) for name, part in self._asdict().items() if isinstance(part, Tensor)}
        return self._replace(**parts, extra={name: moved(part) for name, part in self.extra.items()})

    def without_responses(self) -> Responses:
        """The same tokens and nothing asked: what a process without rows of its own runs, so that all stay in step."""
        return self._replace(
            position_P=self.position_P[:0], target_PC=self.target_PC[:0], index_BRT=self.index_BRT[:0],
            extra={name: part[:0] for name, part in self.extra.items()},
        )  # fmt: skip

    def fed(self) -> tuple[int, int]:
        """(prompt tokens, response tokens) of the forward pass, without padding."""
        return int((self.segment_QS == 0).sum()), int((self.segment_QS > 0).sum())

    def log_probs(self, lm: SupervisedLM, chunk: int | None = None, hidden_PD: Tensor | None = None) -> Tensor:
        """log_prob_BRT of every response token, float32 (0 behind a response's end); used inside `lm`'s forward.

        As in the supervised loss only some positions reach the vocabulary at a time, and are recomputed backwards.
        """
        hidden_PD = self.hidden(lm) if hidden_PD is None else hidden_PD
        target_PC = self.target_PC.clamp(min=0)
        if lm.scope_V is not None:
            target_PC = torch.searchsorted(lm.scope_V, target_PC).clamp(max=len(lm.scope_V) - 1)
        positions = max(len(hidden_PD), 1)
        size = (lm.chunk_size(positions) if chunk is None else chunk) or positions
        parts = []
        for start in range(0, positions, size):
            arguments = (lm, hidden_PD[start : start + size], target_PC[start : start + size])
            parts.append(
                checkpoint(_log_probs, *arguments, use_reentrant=False) if size < positions else _log_probs(*arguments)
            )
        log_prob = torch.cat(parts).flatten().index_select(0, self.index_BRT.clamp(min=0).flatten())
        return torch.where(self.index_BRT >= 0, log_prob.view_as(self.index_BRT), 0)

    @torch.no_grad()
    def entropy(self, lm: SupervisedLM, hidden_PD: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """(sum, count) over response tokens of the entropy with which each was predicted, in nats: a statistic."""
        weight_P = (self.target_PC >= 0).sum(1)
        positions = max(len(hidden_PD), 1)
        size = (lm.chunk_size(positions) if chunk is None else chunk) or positions
        total = weight_P.new_zeros((), dtype=torch.float32)
        for part_PD, part_P in zip(torch.split(hidden_PD, size), torch.split(weight_P, size), strict=True):
            log_prob_PV = lm.phi(part_PD, part_PD.new_zeros(0))[0].log_softmax(1)
            total = total - ((log_prob_PV.exp() * log_prob_PV).sum(1) * part_P).sum()
        return total, weight_P.sum()

    def hidden(self, lm: SupervisedLM) -> Tensor:
        """hidden_PD of the last layer, normed, at the projected positions."""
        stack = causal_lm(lm.backbone).get_decoder()
        mask: Any = (self.segment_QS >= 0).long()
        if self.branched:
            mask = masks.for_layers(stack.config, self._seen(), self.place_QS, self.place_QS, _mask_type(stack))
        output = stack(input_ids=self.input_QS, attention_mask=mask, position_ids=self.place_QS, use_cache=False)
        return output.last_hidden_state.flatten(0, 1).index_select(0, self.position_P)

    def _seen(self) -> Tensor:
        """seen_QSS: the prompt and the own response, up to the token itself; padding sees the prompt, nothing sees it."""
        segment_QS, column_S = self.segment_QS, torch.arange(self.segment_QS.shape[1], device=self.segment_QS.device)
        own = (segment_QS[:, :, None] == segment_QS[:, None]) & (segment_QS[:, None] >= 0)
        seen = (own | (segment_QS[:, None] == 0)) & (column_S[:, None] >= column_S)
        return seen | torch.eye(len(column_S), dtype=torch.bool, device=seen.device)


def pack(
    prompt_K: np.ndarray, length_B: np.ndarray, response_BRT: np.ndarray, *, branched: bool = True, pad: int = 0,
    extra: dict[str, Tensor] | None = None,
) -> Responses:  # fmt: skip
    """Prompts (their tokens one after another, and how many each has) with responses, padded with -1.

    Not `branched`: a sequence for every response, for architectures that take no mask of branches.
    """
    rows, answers, _ = response_BRT.shape
    if not branched and answers > 1:
        prompt_K = np.concatenate([np.tile(part, answers) for part in np.split(prompt_K, length_B.cumsum()[:-1])])
        alone = pack(prompt_K, length_B.repeat(answers), response_BRT.reshape(rows * answers, 1, -1), pad=pad)
        return alone._replace(index_BRT=alone.index_BRT.view(rows, answers, -1), extra=extra or {})
    count_BR = (response_BRT >= 0).sum(-1)
    fed_BRT = np.arange(response_BRT.shape[2]) < count_BR[:, :, None] - 1
    row_F, answer_F, depth_F = np.nonzero(fed_BRT)
    fed_B = fed_BRT.sum((1, 2))
    row_K = np.repeat(np.arange(rows), length_B)
    column_K = _counted(length_B)
    column_F = length_B[row_F] + _counted(fed_B)

    shape = rows, int((length_B + fed_B).max())
    input_QS, segment_QS, place_QS = np.full(shape, pad), np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    input_QS[row_K, column_K], input_QS[row_F, column_F] = prompt_K, response_BRT[fed_BRT]
    segment_QS[row_K, column_K], segment_QS[row_F, column_F] = 0, answer_F + 1
    place_QS[row_K, column_K], place_QS[row_F, column_F] = column_K, length_B[row_F] + depth_F

    # Every prompt's last token, before the first token of all its responses; then every fed token, before the next one.
    position_P = np.concatenate([np.arange(rows) * shape[1] + length_B - 1, row_F * shape[1] + column_F])
    target_PC = np.full((rows + len(row_F), answers), -1)
    target_PC[:rows], target_PC[rows:, 0] = response_BRT[:, :, 0], response_BRT[row_F, answer_F, depth_F + 1]
    index_BRT = np.full(response_BRT.shape, -1)
    index_BRT[:, :, 0] = np.where(count_BR > 0, np.arange(rows * answers).reshape(rows, answers), -1)
    index_BRT[row_F, answer_F, depth_F + 1] = (rows + np.arange(len(row_F))) * answers
    return Responses(
        torch.from_numpy(input_QS), torch.from_numpy(segment_QS), torch.from_numpy(place_QS),
        torch.from_numpy(position_P), torch.from_numpy(target_PC), torch.from_numpy(index_BRT), answers > 1, extra or {},
    )  # fmt: skip


@torch.no_grad()
def takes_branches(lm: SupervisedLM) -> bool:
    """Tried out: whether branches behind two short prompts have the hidden states of sequences run one by one."""
    stack = causal_lm(lm.backbone).get_decoder()
    if not masks.layer_kinds(stack.config)[0] <= masks.KNOWN_KINDS:
        return False  # kinds that a short trial may not tell apart
    was_training = stack.training
    stack.eval()
    device = causal_lm(lm.backbone).get_input_embeddings().weight.device
    prompt_K, length_B = np.array([1, 2, 3, 2, 4]), np.array([3, 2])
    response_BRT = np.array([[[5, 6, 7], [6, 5, 4]], [[7, 5, -1], [4, 6, 2]]])
    try:
        found, alone = (
            _by_token(lm, pack(prompt_K, length_B, response_BRT, branched=branched).to(device))
            for branched in (True, False)
        )
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False
    finally:
        stack.train(was_training)
    tolerance = 1e-3 if found.dtype in (torch.float32, torch.float64) else 0.05
    return bool((found - alone).abs().max() <= tolerance * alone.abs().max().clamp(min=1e-3))


def _by_token(lm: SupervisedLM, batch: Responses) -> Tensor:
    """Hidden states before every response token, in the order of index_BRT."""
    place = batch.index_BRT[batch.index_BRT >= 0] // batch.target_PC.shape[1]
    return batch.hidden(lm).index_select(0, place)


def _log_probs(lm: SupervisedLM, hidden_PD: Tensor, target_PC: Tensor) -> Tensor:
    found: Tensor = _Chosen.apply(lm.phi(hidden_PD, hidden_PD.new_zeros(0))[0], target_PC)  # type: ignore[no-untyped-call]
    return found


class _Chosen(torch.autograd.Function):
    """log_prob_PC of some tokens of each position; the gradient is made in one pass over the vocabulary."""

    @staticmethod
    def forward(ctx: Any, logits_PV: Tensor, target_PC: Tensor) -> Tensor:
        log_total_P1 = logits_PV.logsumexp(1, keepdim=True)
        ctx.save_for_backward(logits_PV, log_total_P1, target_PC)
        return logits_PV.gather(1, target_PC) - log_total_P1

    @staticmethod
    def backward(ctx: Any, gradient_PC: Tensor) -> tuple[Tensor, None]:
        logits_PV, log_total_P1, target_PC = ctx.saved_tensors
        found_PV = (logits_PV - log_total_P1).exp_().mul_(-gradient_PC.sum(1, keepdim=True))
        return found_PV.scatter_add_(1, target_PC, gradient_PC), None


def _mask_type(stack: Any) -> torch.dtype:
    """The number format in which scores of attention are computed: that of the pass, or of the norm after the blocks."""
    *_, last = (parameter for parameter in stack.parameters() if parameter.is_floating_point())
    kind = last.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else last.dtype


def _counted(length_B: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... for every row."""
    return np.arange(length_B.sum()) - np.repeat(length_B.cumsum() - length_B, length_B)
