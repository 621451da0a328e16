"""Embeddings of users, and which of them were trained. Shapes: B rows, D width, U users."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Users(nn.Module):
    """A table of users' embeddings that remembers whom training met: the others' rows are noise, never to be used."""

    known_U: Tensor

    def __init__(self, users: int, width: int, std: float):
        super().__init__()
        self.table = nn.Embedding(users, width)
        nn.init.normal_(self.table.weight, std=std)
        self.register_buffer("known_U", torch.zeros(users, dtype=torch.bool))

    def train_on(self, user_B: Tensor) -> Tensor:
        """user_BD of a training batch; its users are known from now on."""
        self.known_U[user_B] = True
        found: Tensor = self.table(user_B)
        return found

    def known(self, user_B: Tensor, otherwise_BD: Tensor) -> Tensor:
        """user_BD: embeddings of trained users, the given rows for all others (-1: nobody)."""
        place_B = user_B.clamp(min=0)
        known_B = self.known_U[place_B] & (user_B >= 0)
        return torch.where(known_B[:, None], self.table(place_B), otherwise_BD)

    def mean(self) -> Tensor:
        """mean_D over trained users; zeros while there are none."""
        return (self.table.weight * self.known_U[:, None]).sum(0) / self.known_U.sum().clamp(min=1)
