"""BERT4Rec. Shapes: B rows, T history items, S = T + 1 places, D width, I items, N masked places. Item I is the mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ilrec_cli.cf._common import Batch, Facts, append, at_last, most_recent, whole_windows
from ilrec_cli.cf._losses import item_loss
from ilrec_cli.cf._softmax import item_scores
from ilrec_cli.cf._transformer import Block
from ilrec_cli.cf.bert4rec import Config


class Model(nn.Module):
    """Item and position embeddings, pre-norm blocks that see both sides, a projection, scores with a bias per item."""

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.config, self.max_history, self.items = config, facts.max_history, facts.items
        width = config.hidden_size
        self.item = nn.Embedding(facts.items + 1, width)
        self.position = nn.Embedding(facts.max_history + 1, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.output_bias = nn.Parameter(torch.zeros(facts.items))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=config.initializer_range)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over the masked places of `dupe_factor` maskings of every row."""
        item_BS, asked_BS = whole_windows(batch)
        copies = self.config.dupe_factor
        return self.masked_loss(*draw_masks(item_BS.repeat(copies, 1), asked_BS.repeat(copies, 1), self.config))

    def masked_loss(self, item_BS: Tensor, masked_BS: Tensor) -> Tensor:
        """Mean over the given masked places."""
        hidden_BSD = self._encode(item_BS.masked_fill(masked_BS, self.items))
        place_N = masked_BS.flatten().nonzero().squeeze(1)
        hidden_ND = self.head(hidden_BSD.flatten(0, 1).index_select(0, place_N))
        target_N = item_BS.flatten().index_select(0, place_N)
        return item_loss(self.config, hidden_ND, target_N, self.item_embeddings(), self.output_bias)

    def scores(self, history_BT: Tensor, user_B: Tensor | None = None) -> Tensor:
        """scores_BI of a mask after each history."""
        history_BT, length_B = most_recent(history_BT, self.max_history)
        mask_B = torch.full_like(length_B, self.items)
        hidden_BSD = self._encode(append(history_BT, mask_B))
        hidden_BD = self.head(at_last(hidden_BSD, length_B + 1))
        return item_scores(hidden_BD, self.item_embeddings(), self.output_bias)

    def item_embeddings(self) -> Tensor:
        return self.item.weight[: self.items]

    def _encode(self, item_BS: Tensor) -> Tensor:
        """hidden_BSD before the head; every place sees every item and mask of its row."""
        hidden = self.item(item_BS.clamp(min=0)) + self.position.weight[: item_BS.shape[1]]
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden, seen_BT=item_BS >= 0)
        return hidden


def draw_masks(item_BS: Tensor, asked_BS: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """(item_BS, masked_BS): rows kept whole with at least one mask, or cut after a place that alone is masked.

    Only places asked for in training are masked, and each can be: drawn with `mask_ratio`, or as the one place drawn.
    """
    draw_BS = torch.rand(item_BS.shape, device=item_BS.device).masked_fill(~asked_BS, 2.0)
    column_S = torch.arange(item_BS.shape[1], device=item_BS.device)
    # A row's first item has nothing before it, so no row is cut there.
    one_BS = column_S == draw_BS.masked_fill(column_S == 0, 2.0).argmin(1, keepdim=True)
    many_BS = draw_BS < config.mask_ratio
    many_BS = torch.where(many_BS.any(1, keepdim=True), many_BS, one_BS)
    last_B1 = torch.rand(len(item_BS), 1, device=item_BS.device) < config.ft_ratio
    after_BS = one_BS.cumsum(1).bool() & ~one_BS
    return item_BS.masked_fill(last_B1 & after_BS, -1), torch.where(last_B1, one_BS, many_BS)
