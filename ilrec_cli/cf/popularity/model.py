"""Scores are training counts, the same for everybody."""

from __future__ import annotations

from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts
from ilrec_cli.cf.popularity import Config


class Model(nn.Module):
    count_I: Tensor

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.register_buffer("count_I", facts.popularity_I.float())

    def loss(self, batch: Batch) -> Tensor:
        raise TypeError("popularity is counted, not trained")

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor:
        """scores_BI: the counts."""
        return self.count_I.expand(len(history_BT), -1)

    def item_embeddings(self) -> None:
        return None
