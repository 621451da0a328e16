"""Balanced assignment: every column gets the same share of the rows, at little more than the least distance.

Sinkhorn's algorithm on distances centred to [-1, 1], as LC-Rec balances its last level. Shapes: B rows, K columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sinkhorn(distance_BK: Tensor, epsilon: float, iterations: int) -> Tensor:
    """[B, K] in float64: how much of each row goes to each column; columns sum to B / K, rows to 1 when converged.

    Alternately rows and columns of exp(-distance / epsilon) are brought to their sums; kept as one factor per row and
    per column, which is the same and touches the matrix half as often. With each row's largest entry at 1 the smallest
    is exp(-2 / epsilon), which float64 holds down to epsilon = 0.003.
    """
    rows, columns = distance_BK.shape
    scaled_BK = centred(distance_BK) / epsilon
    kernel_BK = torch.exp(scaled_BK.amin(1, keepdim=True) - scaled_BK)
    column_K = kernel_BK.new_ones(columns)
    for _ in range(iterations):
        row_B = 1 / (rows * (kernel_BK @ column_K))
        column_K = 1 / (columns * (row_B @ kernel_BK))
    return rows * row_B[:, None] * kernel_BK * column_K


def centred(distance_BK: Tensor) -> Tensor:
    """In float64, moved and scaled so that the whole matrix spans [-1, 1]."""
    distance_BK = distance_BK.double()
    low, high = distance_BK.aminmax()
    middle = (high + low) / 2
    return (distance_BK - middle) / (high - middle + 1e-5)


def balanced(distance_BK: Tensor, epsilon: float, iterations: int) -> Tensor:
    """[B]: the column that gets most of each row. A single row has nothing to share: its nearest column."""
    if len(distance_BK) == 1:
        return distance_BK.argmin(1)
    return sinkhorn(distance_BK, epsilon, iterations).argmax(1)
