"""The autoencoder, its quantiser and its losses.

Shapes: B rows of a batch, V dimensions of a vector, D of the latent, L levels, K codes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ilrec_cli.ids import rqvae
from ilrec_cli.ids._sinkhorn import balanced


class Losses(NamedTuple):
    """Means over all elements (and levels), and the codes that were taken."""

    reconstruction: Tensor
    codebook: Tensor  # moves the codes to the residuals
    commitment: Tensor  # moves the residuals to the codes
    code_BL: Tensor

    def total(self, config: rqvae.Config) -> Tensor:
        quantisation = self.codebook + config.commitment * self.commitment
        return self.reconstruction + config.quantisation_weight * quantisation


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
        code_BL, codebook, commitment = self.quantise(latent_BD, training=training)
        quantised_BD = look_up(self.codebook_LKD, code_BL).sum(1)
        straight_BD = latent_BD + (quantised_BD - latent_BD).detach()  # the decoder's gradient goes to the encoder
        reconstruction = F.mse_loss(self.decoder(straight_BD), vector_BV)
        return Losses(reconstruction, codebook, commitment, code_BL)

    def quantise(self, latent_BD: Tensor, *, training: bool) -> tuple[Tensor, Tensor, Tensor]:
        """(code_BL, codebook loss, commitment loss): each level quantises what the levels before left over."""
        residual_BD, codes = latent_BD, []
        codebook, commitment = latent_BD.new_zeros(()), latent_BD.new_zeros(())
        for level, codebook_KD in enumerate(self.codebook_LKD):
            last = level == len(self.codebook_LKD) - 1
            code_B = self.assign(residual_BD.detach(), codebook_KD.detach(), balance=training and last)
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
        levels = len(codes)
        return torch.stack(codes, 1), codebook / levels, commitment / levels

    def assign(self, residual_BD: Tensor, codebook_KD: Tensor, *, balance: bool) -> Tensor:
        """[B]: the nearest code, or a nearly nearest one so that the batch uses all codes alike."""
        half_BK = 0.5 * codebook_KD.square().sum(1) - residual_BD @ codebook_KD.T
        if not balance or self.config.sinkhorn_epsilon == 0:
            return half_BK.argmin(1)
        distance_BK = residual_BD.square().sum(1, keepdim=True) + 2 * half_BK
        return balanced(distance_BK, self.config.sinkhorn_epsilon, self.config.sinkhorn_iterations)


def perceptron(sizes: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them and none after the last; Xavier-normal weights, zero biases."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = skip_init(nn.Linear, inputs, outputs)  # its own start would draw from the global generator
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def look_up(codebook_LKD: Tensor, code_BL: Tensor) -> Tensor:
    """[B, L, D]: the chosen code of every level; without a gradient to the codebooks, as the straight-through sum has none."""
    levels, codes, size = codebook_LKD.shape
    offset_L = torch.arange(levels, device=code_BL.device) * codes
    return F.embedding(code_BL + offset_L, codebook_LKD.detach().reshape(-1, size))
