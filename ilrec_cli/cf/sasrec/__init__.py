"""SASRec: a causal transformer over item embeddings, trained at every position with the full softmax.

Source: W.-C. Kang, J. McAuley, "Self-attentive sequential recommendation", ICDM 2018, arXiv 1808.09781. The paper
trains with one negative and binary cross-entropy; full-softmax cross-entropy over the catalogue is stronger
(A. Klenitskiy, A. Vasilev, RecSys 2023, arXiv 2309.07602). Names of settings as in RecBole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ilrec_cli.cf._settings import ItemLoss, probabilities
from ilrec_cli.settings._base import at_least

SANITY = False
TRAINED = True
SEQUENTIAL = True


@dataclass(frozen=True, kw_only=True)
class Config(ItemLoss):
    hidden_size: Annotated[int, "width of embeddings and layers"] = 128
    n_layers: Annotated[int, "transformer layers"] = 2
    n_heads: Annotated[int, "attention heads"] = 2
    inner_size: Annotated[int, "width of the feed-forward part"] = 256
    hidden_dropout_prob: Annotated[float, "dropout on embeddings and sub-layer outputs"] = 0.5
    attn_dropout_prob: Annotated[float, "dropout on attention weights"] = 0.2
    initializer_range: Annotated[float, "standard deviation of the initial weights"] = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "hidden_size", "n_layers", "n_heads", "inner_size")
        probabilities(self, "hidden_dropout_prob", "attn_dropout_prob")
        if self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of n_heads {self.n_heads}")
