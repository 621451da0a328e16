"""GRU4Rec. Shapes: B rows, T places, D width of embeddings, H of the state, I items."""

from __future__ import annotations

from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts, after_each, at_targets, most_recent
from ilrec_cli.cf._losses import item_loss
from ilrec_cli.cf._softmax import item_scores
from ilrec_cli.cf.gru4rec import Config


class Model(nn.Module):
    """Item embeddings, gated recurrent units, a dense layer, scores by dot product with the item embeddings."""

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.config, self.max_history = config, facts.max_history
        self.item = nn.Embedding(facts.items, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout_prob)
        self.gru = nn.GRU(config.embedding_size, config.hidden_size, config.num_layers, bias=False, batch_first=True)
        self.output_dropout = nn.Dropout(config.output_dropout_prob)
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        nn.init.xavier_normal_(self.item.weight)
        for name, weight in self.gru.named_parameters():
            (nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_)(weight)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over every supervised place."""
        hidden_ND, target_N = at_targets(self._encode(batch.item_BT), batch.target_BT)
        return item_loss(self.config, hidden_ND, target_N, self.item.weight)

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor:
        """scores_BI after the last item of each history."""
        history_BT, length_B = most_recent(history_BT, self.max_history)
        hidden_BD = after_each(self._encode, history_BT, length_B)
        return item_scores(hidden_BD, self.item.weight)

    def item_embeddings(self) -> Tensor:
        return self.item.weight

    def _encode(self, item_BT: Tensor) -> Tensor:
        """hidden_BTD; padding lies to the right, after every real place."""
        state_BTH, _ = self.gru(self.dropout(self.item(item_BT.clamp(min=0))))
        return self.dense(self.output_dropout(state_BTH))
