"""The autoencoder, its quantiser and its losses.

Shapes: B rows of a batch, V dimensions of a vector, D of the latent, L levels, K codes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ilrec_cli.ids import rqvae
from ilrec_cli.ids._sinkhorn import balanced


class Losses(NamedTuple):
    """Means over all elements (and levels), and the codes that were taken."""

    reconstruction: Tensor
    codebook: Tensor  # moves the codes to the residuals
    commitment: Tensor  # moves the residuals to the codes
    separation: Tensor  # moves latents with the same path apart
    code_BL: Tensor

    def total(self, config: rqvae.Config) -> Tensor:
        quantisation = self.codebook + config.commitment * self.commitment
        return self.reconstruction + config.quantisation_weight * quantisation + config.separation * self.separation


class Taken(NamedTuple):
    """What the quantiser made of a batch of latents."""

    code_BL: Tensor  # as used: the last level balanced in training
    nearest_BL: Tensor
    codebook: Tensor
    commitment: Tensor
    left: Tensor  # root of the mean squared length of what the last level leaves over


class Model(nn.Module):
    """Encoder, decoder and codebooks; the codebooks are zero until they are set."""

    def __init__(self, vector_size: int, codes: int, config: rqvae.Config, generator: torch.Generator):
        super().__init__()
        sizes = (vector_size, *config.hidden, config.code_size)
        self.config = config
        self.encoder = perceptron(sizes, generator)
        self.decoder = perceptron(sizes[::-1], generator)
        self.codebook_LKD = nn.Parameter(torch.zeros(config.levels, codes, config.code_size))

    def losses(self, vector_BV: Tensor, *, training: bool) -> Losses:
        """Of a batch; the last level is balanced in training only."""
        latent_BD = self.encoder(vector_BV)
        taken = self.quantise(latent_BD, training=training)
        quantised_BD = look_up(self.codebook_LKD, taken.code_BL).sum(1)
        straight_BD = latent_BD + (quantised_BD - latent_BD).detach()  # the decoder's gradient goes to the encoder
        reconstruction = F.mse_loss(self.decoder(straight_BD), vector_BV)
        parted = latent_BD.new_zeros(())
        if self.config.separation:
            parted = separation(latent_BD, taken.nearest_BL, taken.left)
        return Losses(reconstruction, taken.codebook, taken.commitment, parted, taken.code_BL)

    def quantise(self, latent_BD: Tensor, *, training: bool) -> Taken:
        """Each level quantises what the levels before left over."""
        residual_BD, codes, nearest = latent_BD, [], []
        codebook, commitment = latent_BD.new_zeros(()), latent_BD.new_zeros(())
        for level, codebook_KD in enumerate(self.codebook_LKD):
            last = level == len(self.codebook_LKD) - 1
            nearest_B, code_B = self.assign(residual_BD.detach(), codebook_KD.detach(), balance=training and last)
            chosen_BD = F.embedding(code_B, codebook_KD)
            codebook = codebook + F.mse_loss(chosen_BD, residual_BD.detach())
            commitment = commitment + F.mse_loss(residual_BD, chosen_BD.detach())
            if self.config.residual == "straight_through":
                # LC-Rec's: r - (r + sg(c - r)). The two r cancel in the gradient, so deeper levels do not reach the encoder.
                chosen_BD = residual_BD + (chosen_BD - residual_BD).detach()
            else:
                chosen_BD = chosen_BD.detach()
            residual_BD = residual_BD - chosen_BD
            codes.append(code_B)
            nearest.append(nearest_B)
        levels, left = len(codes), residual_BD.detach().square().sum(1).mean().sqrt()
        return Taken(torch.stack(codes, 1), torch.stack(nearest, 1), codebook / levels, commitment / levels, left)

    def assign(self, residual_BD: Tensor, codebook_KD: Tensor, *, balance: bool) -> tuple[Tensor, Tensor]:
        """[B] the nearest code, and the one to take: a nearly nearest one where the batch is to use all codes alike."""
        half_BK = 0.5 * codebook_KD.square().sum(1) - residual_BD @ codebook_KD.T
        nearest_B = half_BK.argmin(1)
        if not balance or self.config.sinkhorn_epsilon == 0:
            return nearest_B, nearest_B
        distance_BK = residual_BD.square().sum(1, keepdim=True) + 2 * half_BK
        return nearest_B, balanced(distance_BK, self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations)


def separation(latent_BD: Tensor, code_BL: Tensor, margin: Tensor) -> Tensor:
    """How much nearer than the margin latents with the same path are: sum of max(0, 1 - distance / margin), over B.

    Of each path's latents, neighbours in the batch's order are compared: all of them move when all coincide.
    """
    _, path_B = torch.unique(code_BL, dim=0, return_inverse=True)
    order_B = path_B.argsort(stable=True)
    same = path_B[order_B[1:]] == path_B[order_B[:-1]]
    one, other = order_B[:-1][same], order_B[1:][same]
    apart = (latent_BD.index_select(0, one) - latent_BD.index_select(0, other)).square().sum(1)
    return F.relu(1 - (apart + 1e-12).sqrt() / margin).sum() / len(latent_BD)


def perceptron(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them and none after the last; Xavier-normal weights, zero biases."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        # Made without values: nn.Linear's own start would draw from the global generator.
        linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def look_up(codebook_LKD: Tensor, code_BL: Tensor) -> Tensor:
    """[B, L, D]: the chosen code of every level; without a gradient to the codebooks, as the straight-through sum has none."""
    levels, codes, size = codebook_LKD.shape
    offset_L = torch.arange(levels, device=code_BL.device) * codes
    return F.embedding(code_BL + offset_L, codebook_LKD.detach().reshape(-1, size))
