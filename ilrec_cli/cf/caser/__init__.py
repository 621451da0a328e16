"""Caser: convolutions over the last few items and a user embedding, trained at every position with the full softmax.

Source: J. Tang, K. Wang, "Personalized top-N sequential recommendation via convolutional sequence embedding", WSDM
2018, arXiv 1809.07656. As there: `window` items (L) are an image, horizontal filters of every height 1..L with
max-pooling, vertical filters, a dense layer, the user's embedding beside it, and an output table of its own. The paper
trains with sampled binary cross-entropy; the full softmax is stronger. Names of settings as in RecBole, where they exist.
A user who was not trained on, or a history without its user, has the mean of the trained users' embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ilrec_cli.cf._settings import ItemLoss, probabilities, sizes

SANITY = False
TRAINED = True
SEQUENTIAL = True
PRESETS: dict[str, dict[str, Any]] = {"instruments": {"weight_decay": 0.5, "dropout_prob": 0.3}}


@dataclass(frozen=True, kw_only=True)
class Config(ItemLoss):
    embedding_size: Annotated[int, "width of item and user embeddings"] = 64
    window: Annotated[int, "items that a place sees: L of the paper"] = 5
    n_h: Annotated[int, "horizontal filters of each height"] = 16
    n_v: Annotated[int, "vertical filters"] = 4
    dropout_prob: Annotated[float, "dropout on the output of the convolutions"] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(self, "embedding_size", "window", "n_h", "n_v")
        probabilities(self, "dropout_prob")
