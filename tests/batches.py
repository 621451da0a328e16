"""Small random batches of supervised positions, with collaborative rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.model import Rewards

VOCABULARY = 60


def a_batch(rows: int = 4, width: int = 9, seed: int = 0) -> tuple[Batch, Tensor, Tensor]:
    """Right-padded rows with some supervised positions; (batch, labels_BS with -100, rows of each position)."""
    generator = torch.Generator().manual_seed(seed)
    input_BS = torch.randint(3, VOCABULARY, (rows, width), generator=generator)
    length_B = torch.randint(4, width + 1, (rows,), generator=generator)
    mask_BS = torch.arange(width) < length_B[:, None]
    labels_BS = torch.where(mask_BS & (torch.arange(width) >= 2), input_BS, -100)
    row_N, column_N = (labels_BS != -100).nonzero(as_tuple=True)
    target_N = labels_BS[row_N, column_N]
    zero_N = torch.zeros_like(target_N)
    batch = Batch(
        input_BS.masked_fill(~mask_BS, 2),
        mask_BS.long(),
        row_N * width + column_N - 1,
        target_N,
        zero_N,
        row_N,
        zero_N[:, None],
    )
    return batch, labels_BS, row_N


def rewards_for(batch: Batch, seed: int = 0) -> Rewards:
    generator = torch.Generator().manual_seed(seed)
    others = torch.randint(VOCABULARY, (len(batch.target_N), 3), generator=generator)
    tokens = torch.cat([batch.target_N[:, None], others], 1)
    fresh = torch.ones_like(tokens, dtype=torch.bool)
    for column in range(1, 4):
        fresh[:, column] = (tokens[:, :column] != tokens[:, column : column + 1]).all(1)
    return Rewards(torch.where(fresh, tokens, -1), torch.rand(tokens.shape, generator=generator) * fresh)
