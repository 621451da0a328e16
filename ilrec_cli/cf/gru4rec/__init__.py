"""GRU4Rec: a recurrent network over item embeddings, trained at every position with the full softmax.

Source: B. Hidasi, A. Karatzoglou, L. Baltrunas, D. Tikk, "Session-based recommendations with recurrent neural
networks", ICLR 2016, arXiv 1511.06939. The paper ranks against the items of a batch; the full softmax is stronger.
Shape and names of settings as in RecBole: gated recurrent units without biases, a dense layer back to the width of the
embeddings, scores by dot product with the item embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

SANITY = False
TRAINED = True
SEQUENTIAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    embedding_size: Annotated[int, "width of item embeddings"] = 64
    hidden_size: Annotated[int, "width of the recurrent state"] = 128
    num_layers: Annotated[int, "recurrent layers"] = 1
    dropout_prob: Annotated[float, "dropout on embeddings"] = 0.3
    output_dropout_prob: Annotated[float, "dropout on the recurrent state before the dense layer"] = 0.0

    def __post_init__(self) -> None:
        if min(self.embedding_size, self.hidden_size, self.num_layers) < 1:
            raise ValueError("embedding_size, hidden_size and num_layers are at least 1")
        if not (0 <= self.dropout_prob < 1 and 0 <= self.output_dropout_prob < 1):
            raise ValueError("dropout_prob and output_dropout_prob lie in [0, 1)")
