"""BPR: matrix factorisation trained on pairs of an item that the user interacted with and one drawn at random.

Source: S. Rendle, C. Freudenthaler, Z. Gantner, L. Schmidt-Thieme, "BPR: Bayesian personalized ranking from implicit
feedback", UAI 2009, arXiv 1205.2618. It knows no order: a trained user has one vector. A user who was not trained on, or
a history without its user, is the mean of the history's item vectors. Names of settings as in RecBole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ilrec_cli.cf._settings import sizes
from ilrec_cli.settings._base import at_least

SANITY = False
TRAINED = True
SEQUENTIAL = False
PRESETS: dict[str, dict[str, Any]] = {"instruments": {"epochs": 100, "learning_rate": 2e-3, "weight_decay": 0.3}}


@dataclass(frozen=True, kw_only=True)
class Config:
    embedding_size: Annotated[int, "width of user and item vectors"] = 64
    n_negatives: Annotated[int, "items drawn for each interaction"] = 4
    reg_weight: Annotated[float, "squared vectors of a pair, added to the loss: lambda of the paper"] = 0.0

    def __post_init__(self) -> None:
        sizes(self, "embedding_size")
        sizes(self, "n_negatives", most=1024)  # of each interaction: a batch has thousands
        at_least(self, 0, "reg_weight")
