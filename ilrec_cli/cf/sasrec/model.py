"""SASRec. Shapes: B rows, T places, D width, I items."""

from __future__ import annotations

from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts, after_each, at_targets, most_recent
from ilrec_cli.cf._losses import item_loss
from ilrec_cli.cf._softmax import item_scores
from ilrec_cli.cf._transformer import Block
from ilrec_cli.cf.sasrec import Config


class Model(nn.Module):
    """Item and position embeddings, pre-norm causal blocks, scores by dot product with the item embeddings."""

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.config, self.max_history = config, facts.max_history
        self.item = nn.Embedding(facts.items, config.hidden_size)
        self.position = nn.Embedding(facts.max_history, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=config.initializer_range)

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
        """hidden_BTD; padding lies to the right of what any real place attends to."""
        hidden = self.item(item_BT.clamp(min=0)) + self.position.weight[: item_BT.shape[1]]
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)
