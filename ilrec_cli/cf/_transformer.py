"""The transformer block of SASRec and BERT4Rec. Shapes: B rows, T places, D width."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ilrec_cli.cf._settings import Transformer


class Block(nn.Module):
    """Self-attention and a feed-forward part, each normed before and added."""

    def __init__(self, config: Transformer):
        super().__init__()
        width = config.hidden_size
        self.heads, self.attention_dropout = config.n_heads, config.attn_dropout_prob
        self.attention_norm, self.inner_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, config.inner_size), nn.GELU(), nn.Linear(config.inner_size, width))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_BTD: Tensor, seen_BT: Tensor | None = None) -> Tensor:
        """Every place attends to the places up to it; where `seen` is given, to all those that it marks."""
        rows, places, width = hidden_BTD.shape
        qkv = self.qkv(self.attention_norm(hidden_BTD)).view(rows, places, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        mask = None if seen_BT is None else seen_BT[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=mask is None)
        attended = attended.transpose(1, 2).reshape(rows, places, width)
        hidden_BTD = hidden_BTD + self.dropout(self.output(attended))
        return hidden_BTD + self.dropout(self.inner(self.inner_norm(hidden_BTD)))
