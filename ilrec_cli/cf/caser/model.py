"""Caser. Shapes: B rows, T places, D width, L window, H horizontal filters of a height, V vertical filters, I items.

A filter that slides inside every place's window computes the same products again at the next place. Here each product is
computed once for the whole sequence; a place's maximum over its window is then a sliding maximum over places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts, at_last, at_targets, most_recent
from ilrec_cli.cf._losses import item_loss
from ilrec_cli.cf._softmax import item_scores
from ilrec_cli.cf._users import Users
from ilrec_cli.cf.caser import Config


class Model(nn.Module):
    """Item and user embeddings, convolutions, a dense layer; scores by an output table over [sequence, user]."""

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.config, self.max_history = config, facts.max_history
        width, self.window = config.embedding_size, min(config.window, facts.max_history)
        self.item, self.user = nn.Embedding(facts.items, width), Users(facts.users, width, width**-0.5)
        self.horizontal = nn.ModuleList(nn.Conv1d(width, config.n_h, height) for height in range(1, self.window + 1))
        self.vertical = nn.Linear(self.window, config.n_v, bias=False)
        self.dropout = nn.Dropout(config.dropout_prob)
        self.dense = nn.Linear(config.n_v * width + config.n_h * self.window, width)
        self.output = nn.Embedding(facts.items, 2 * width)
        self.output_bias = nn.Parameter(torch.zeros(facts.items))
        for table in (self.item, self.output):
            nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over every supervised place."""
        hidden_BTD = self._encode(batch.item_BT, self.user.train_on(batch.user_B))
        hidden_ND, target_N = at_targets(hidden_BTD, batch.target_BT)
        return item_loss(self.config, hidden_ND, target_N, self.output.weight, self.output_bias)

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor:
        """scores_BI after the last item of each history; without users, for the mean of the trained ones.

        An empty history is a window of absent items: its user's taste is all there is, and it stays.
        """
        history_BT, length_B = most_recent(history_BT, self.max_history)
        user_BD = self.user.mean().expand(len(history_BT), -1)
        if user_B is not None:
            user_BD = self.user.known(user_B, user_BD)
        hidden_BD = at_last(self._encode(history_BT, user_BD), length_B.clamp(min=1))
        return item_scores(hidden_BD, self.output.weight, self.output_bias)

    def item_embeddings(self) -> Tensor:
        return self.item.weight

    def _encode(self, item_BT: Tensor, user_BD: Tensor) -> Tensor:
        """[sequence, user] at every place, 2D wide; absent items are zeros, as the paper pads."""
        item_BTD = self.item(item_BT.clamp(min=0)) * (item_BT >= 0)[:, :, None]
        padded_BDT = F.pad(item_BTD.transpose(1, 2), (self.window - 1, 0))
        features_BTF = torch.cat([self._vertical(padded_BDT), *self._horizontal(padded_BDT)], dim=2)
        sequence_BTD = F.relu(self.dense(self.dropout(features_BTF)))
        return torch.cat([sequence_BTD, user_BD[:, None].expand_as(sequence_BTD)], dim=2)

    def _vertical(self, padded_BDT: Tensor) -> Tensor:
        """Weighted sums of the window's embeddings, V of them side by side."""
        sums_BDTV = self.vertical(padded_BDT.unfold(2, self.window, 1))
        return sums_BDTV.permute(0, 2, 3, 1).flatten(2)

    def _horizontal(self, padded_BDT: Tensor) -> list[Tensor]:
        """For each height the H largest responses among the window's height-long stretches."""
        responses = [F.relu(convolution(padded_BDT)) for convolution in self.horizontal]
        # A window of L items has L - height + 1 stretches; windows start one place apart.
        return [F.max_pool1d(r_BHT, self.window - n, stride=1).transpose(1, 2) for n, r_BHT in enumerate(responses)]
