"""SASRec. Shapes: B rows, T places, D width, I items."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts, at_last, at_targets, most_recent
from ilrec_cli.cf._losses import item_loss
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
        hidden_BD = at_last(self._encode(history_BT), length_B)
        return (hidden_BD @ self.item.weight.T).float()

    def item_embeddings(self) -> Tensor:
        return self.item.weight

    def _encode(self, item_BT: Tensor) -> Tensor:
        """hidden_BTD; padding lies to the right of what any real place attends to."""
        hidden = self.item(item_BT.clamp(min=0)) + self.position.weight[: item_BT.shape[1]]
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)


class Block(nn.Module):
    """Causal self-attention and a feed-forward part, each normed before and added."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.hidden_size
        self.heads, self.attention_dropout = config.n_heads, config.attn_dropout_prob
        self.attention_norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, config.inner_size), nn.GELU(), nn.Linear(config.inner_size, width))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        rows, places, width = hidden_BTD.shape
        qkv = self.qkv(self.attention_norm(hidden_BTD)).view(rows, places, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        attended = attended.transpose(1, 2).reshape(rows, places, width)
        hidden_BTD = hidden_BTD + self.dropout(self.output(attended))
        return hidden_BTD + self.dropout(self.inner(self.inner_norm(hidden_BTD)))
