"""Settings that collaborative models share. Light: the front of a plug-in reads this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ilrec_cli.settings._base import above, at_least, at_most

# What nobody means: memory that such a size takes would end the process instead of in a line.
WIDEST, DEEPEST, MOST_NEGATIVES = 2**14, 256, 2**16


@dataclass(frozen=True, kw_only=True)
class ItemLoss:
    """What a model with a score for every item is trained with (`_losses.py`)."""

    loss: Annotated[
        Literal["softmax", "sampled", "gbce"],
        "softmax over all items, or for large catalogues: sampled softmax, generalised binary cross-entropy",
    ] = "softmax"
    n_negatives: Annotated[int, "items drawn a step for loss=sampled and gbce: bounds their memory"] = 256
    gbce_t: Annotated[float, "calibration of gbce: 0 is binary cross-entropy, 1 calibrates fully"] = 0.75

    def __post_init__(self) -> None:
        at_least(self, 1, "n_negatives")
        at_most(self, MOST_NEGATIVES, "n_negatives")
        if not 0 <= self.gbce_t <= 1:
            raise ValueError(f"gbce_t is {self.gbce_t}, expected a number in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Transformer(ItemLoss):
    """Size and regularisation of a transformer, as RecBole names them."""

    hidden_size: Annotated[int, "width of embeddings and layers"] = 128
    n_layers: Annotated[int, "transformer layers"] = 2
    n_heads: Annotated[int, "attention heads"] = 2
    inner_size: Annotated[int, "width of the feed-forward part"] = 256
    hidden_dropout_prob: Annotated[float, "dropout on embeddings and sub-layer outputs"] = 0.5
    attn_dropout_prob: Annotated[float, "dropout on attention weights"] = 0.2
    initializer_range: Annotated[float, "standard deviation of the initial weights"] = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(self, "hidden_size", "n_heads", "inner_size")
        sizes(self, "n_layers", most=DEEPEST)
        probabilities(self, "hidden_dropout_prob", "attn_dropout_prob")
        above(self, 0, "initializer_range")
        at_most(self, 10, "initializer_range")
        if self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of n_heads {self.n_heads}")


def sizes(config: object, *names: str, most: int = WIDEST) -> None:
    """`ValueError` where a width or a number of parts lies outside 1 to `most`."""
    at_least(config, 1, *names)
    at_most(config, most, *names)


def probabilities(config: object, *names: str) -> None:
    """`ValueError` where a dropout lies outside [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, expected at least 0 and less than 1")
