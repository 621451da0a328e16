"""BPR. Shapes: B rows, T history items, S places, N interactions, M negatives of each, D width, I items."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts, most_recent, whole_windows
from ilrec_cli.cf._softmax import item_scores
from ilrec_cli.cf._users import Users
from ilrec_cli.cf.bpr import Config


class Model(nn.Module):
    """A vector for every user and item, and a bias for every item; scores are user . item + bias."""

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.config, self.max_history, self.items = config, facts.max_history, facts.items
        self.item = nn.Embedding(facts.items, config.embedding_size)
        self.user = Users(facts.users, config.embedding_size, std=0.1)
        self.bias = nn.Parameter(torch.zeros(facts.items))
        nn.init.normal_(self.item.weight, std=0.1)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over interactions and their negatives; a draw that the user's window holds is no negative."""
        item_BS, asked_BS = whole_windows(batch)
        row_N, place_N = asked_BS.nonzero(as_tuple=True)
        negative_NM = torch.randint(self.items, (len(row_N), self.config.n_negatives), device=item_BS.device)
        return self.pair_loss(batch.user_B, item_BS, row_N, place_N, negative_NM)

    def pair_loss(self, user_B: Tensor, item_BS: Tensor, row_N: Tensor, place_N: Tensor, negative_NM: Tensor) -> Tensor:
        """-log sigmoid(s+ - s-) of the given pairs, those left out whose negative is in the row."""
        pair_NC = torch.cat([item_BS[row_N, place_N][:, None], negative_NM], dim=1)
        user_ND = self.user.train_on(user_B).index_select(0, row_N)
        item_NCD = self.item(pair_NC)
        score_NC = (item_NCD @ user_ND[:, :, None]).squeeze(2) + F.embedding(pair_NC, self.bias[:, None]).squeeze(2)
        valid_NM = (negative_NM[:, :, None] != item_BS[row_N][:, None]).all(2)
        loss_NM = -F.logsigmoid(score_NC[:, :1] - score_NC[:, 1:])
        if self.config.reg_weight:
            square_NC = item_NCD.square().sum(2) + user_ND.square().sum(1, keepdim=True) / 2
            loss_NM = loss_NM + self.config.reg_weight * (square_NC[:, :1] + square_NC[:, 1:])
        return (loss_NM * valid_NM).sum() / valid_NM.sum().clamp(min=1)

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor:
        """scores_BI of trained users whatever their history; of others for the mean of its items."""
        user_BD = self._mean_item(history_BT)
        if user_B is not None:
            user_BD = self.user.known(user_B, user_BD)
        return item_scores(user_BD, self.item.weight, self.bias)

    def item_embeddings(self) -> Tensor:
        return self.item.weight

    def _mean_item(self, history_BT: Tensor) -> Tensor:
        history_BT, length_B = most_recent(history_BT, self.max_history)
        item_BTD = self.item(history_BT.clamp(min=0)) * (history_BT >= 0)[:, :, None]
        return item_BTD.sum(1) / length_B.clamp(min=1)[:, None]
