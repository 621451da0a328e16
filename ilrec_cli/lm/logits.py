"""Hidden states -> logits, without a matrix of all positions by the whole vocabulary.

A step of decoding needs the logits of few tokens (those that continue an item) and one number over the vocabulary (the
logarithm of the sum of exponentials). Both are taken from the head's rows: the first by a product with a few rows, the
second in tiles that stay in the processor's cache.

Shapes: N positions, D width, V vocabulary, U tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ilrec_cli.lm.backbone import causal_lm
from ilrec_cli.lm.model import SupervisedLM

TILE_TOKENS = 2048  # of the vocabulary at a time on a CPU, where a tile should stay in the cache
TILE_FLOATS = {"cpu": 1 << 21, "cuda": 1 << 26}  # logits that exist at a time


def language_model(model: Any) -> Any:
    """The transformers model inside what makes it parallel and what adapts it."""
    while isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        model = model.module
    return causal_lm(model)


class Logits:
    """The head of a causal LM, as the model itself applies it: scaling and soft caps included."""

    def __init__(self, model: Any):
        self.lm = SupervisedLM(language_model(model))
        self.head = language_model(model).get_output_embeddings()
        # An adapter on the head, or a quantised one, is called as it is: only a plain matrix has rows to pick.
        self.vocabulary = self.lm.backbone.get_output_embeddings().weight.shape[0]
        self.plain = type(self.head) is nn.Linear and not self.head.weight.is_meta

    def rows(self, hidden_ND: Tensor, token_U: Tensor) -> Tensor:
        """logits_NU of some tokens, float32."""
        if not self.plain:
            return torch.cat([part.index_select(1, token_U) for (part,) in self.parts(hidden_ND)])
        return self._product(hidden_ND, self.head.weight.index_select(0, token_U), self._bias(token_U))

    def pairs(self, hidden_ND: Tensor, token_N: Tensor) -> Tensor:
        """logit_N of one token per position, float32."""
        if not self.plain:
            parts = self.parts(hidden_ND, token_N)
            return torch.cat([part.gather(1, token[:, None])[:, 0] for part, token in parts])
        logit_N = (hidden_ND * self.head.weight.index_select(0, token_N)).sum(1)
        bias_N = self._bias(token_N)
        return self.lm._after_head(logit_N if bias_N is None else logit_N + bias_N)

    def logsumexp(self, hidden_ND: Tensor) -> Tensor:
        """log_sum_N over the whole vocabulary, float32."""
        if not len(hidden_ND):
            return hidden_ND.new_zeros(0, dtype=torch.float32)
        if not self.plain:
            return torch.cat([part.logsumexp(1) for (part,) in self.parts(hidden_ND)])
        tile = min(TILE_TOKENS, self.vocabulary) if hidden_ND.device.type == "cpu" else self.vocabulary
        size = max(TILE_FLOATS.get(hidden_ND.device.type, 1 << 24) // tile, 1)
        return torch.cat([self._tiled(part, tile) for part in torch.split(hidden_ND, size)])

    def parts(self, hidden_ND: Tensor, *others_N: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """(logits_NV, and the same positions of other tensors), a bounded number of positions at a time."""
        size = max(TILE_FLOATS.get(hidden_ND.device.type, 1 << 24) // self.vocabulary, 1)
        for hidden, *others in zip(*(torch.split(each, size) for each in (hidden_ND, *others_N)), strict=True):
            yield self.lm._after_head(self.head(hidden)), *others

    def _tiled(self, hidden_ND: Tensor, tile: int) -> Tensor:
        """One pass over the vocabulary: the sum so far is relative to the largest logit so far."""
        largest_N1 = sum_N1 = None
        bias = self.head.bias
        for start in range(0, self.vocabulary, tile):
            part = slice(start, start + tile)
            logits = self._product(hidden_ND, self.head.weight[part], None if bias is None else bias[part])
            peak_N1 = logits.amax(1, keepdim=True)
            if largest_N1 is None or sum_N1 is None:
                largest_N1, sum_N1 = peak_N1, logits.sub_(peak_N1).exp_().sum(1, keepdim=True)
                continue
            peak_N1 = torch.maximum(largest_N1, peak_N1)
            sum_N1 = sum_N1 * (largest_N1 - peak_N1).exp() + logits.sub_(peak_N1).exp_().sum(1, keepdim=True)
            largest_N1 = peak_N1
        assert largest_N1 is not None
        assert sum_N1 is not None
        return (largest_N1 + sum_N1.log()).squeeze(1)

    def _product(self, hidden_ND: Tensor, weight_UD: Tensor, bias_U: Tensor | None) -> Tensor:
        return self.lm._after_head(nn.functional.linear(hidden_ND, weight_UD, bias_U))

    def _bias(self, token_U: Tensor) -> Tensor | None:
        return None if self.head.bias is None else self.head.bias.index_select(0, token_U)
