"""GRU4Rec: a recurrent network over item embeddings, trained at every position with the full softmax.

Source: B. Hidasi, A. Karatzoglou, L. Baltrunas, D. Tikk, "Session-based recommendations with recurrent neural
networks", ICLR 2016, arXiv 1511.06939. The paper ranks against the items of a batch; the full softmax is stronger.
Shape and names of settings as in RecBole: gated recurrent units without biases, a dense layer back to the width of the
embeddings, scores by dot product with the item embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ilrec_cli.cf._settings import DEEPEST, ItemLoss, probabilities, sizes

SANITY = False
TRAINED = True
SEQUENTIAL = True
PRESETS: dict[str, dict[str, Any]] = {"instruments": {"learning_rate": 2e-3, "hidden_size": 256}}


@dataclass(frozen=True, kw_only=True)
class Config(ItemLoss):
    embedding_size: Annotated[int, "width of item embeddings"] = 128
    hidden_size: Annotated[int, "width of the recurrent state"] = 128
    num_layers: Annotated[int, "recurrent layers"] = 1
    dropout_prob: Annotated[float, "dropout on embeddings"] = 0.5
    output_dropout_prob: Annotated[float, "dropout on the recurrent state before the dense layer"] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(self, "embedding_size", "hidden_size")
        sizes(self, "num_layers", most=DEEPEST)
        probabilities(self, "dropout_prob", "output_dropout_prob")
