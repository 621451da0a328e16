"""BERT4Rec: a transformer that sees both sides of masked items, trained to name them (Cloze) with the full softmax.

Source: F. Sun et al., "BERT4Rec: sequential recommendation with bidirectional encoder representations from
transformer", CIKM 2019, arXiv 1904.06690. Scores are those of a mask after the history. A share `ft_ratio` of the
training rows looks just like that: the paper masks the last item, here the row is cut at a place drawn at random and that
place masked, so that every training target comes last in turn. The other rows mask many items at once. Each sequence is
masked `dupe_factor` times a step, as the authors' code does before training (there 10). Names of settings as in RecBole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from ilrec_cli.cf._settings import Transformer, probabilities, sizes

SANITY = False
TRAINED = True
SEQUENTIAL = True
PRESETS: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Config(Transformer):
    hidden_dropout_prob: Annotated[float, "dropout on embeddings and sub-layer outputs"] = 0.3
    mask_ratio: Annotated[float, "share of the items masked in a row that keeps its length"] = 0.2
    ft_ratio: Annotated[float, "share of rows with only their last item masked"] = 0.5
    dupe_factor: Annotated[int, "maskings of each sequence a step"] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes(self, "dupe_factor", most=100)
        probabilities(self, "mask_ratio")
        if not 0 <= self.ft_ratio <= 1:
            raise ValueError(f"ft_ratio is {self.ft_ratio}, expected a number in [0, 1]")
