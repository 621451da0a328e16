"""How good the codes of all items are at a moment of training. Shapes: U different vectors, L levels, K codes, D latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ilrec_cli.ids import rqvae
from ilrec_cli.ids._quantise import greedy
from ilrec_cli.ids.rqvae.model import Model

BLOCK = 8192  # vectors encoded at a time


@dataclass(frozen=True)
class Evaluation:
    """With the nearest codes at every level, as they will be used."""

    latent_UD: np.ndarray
    code_UL: np.ndarray
    reconstruction: float  # mean squared error over all elements
    loss: float  # with the quantisation terms, as in training
    collisions: int  # different vectors more than different paths
    count_LK: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """How many codes of each level some vector has."""
        return (self.count_LK > 0).sum(1)

    @property
    def entropy(self) -> np.ndarray:
        """Of the use of each level's codes, in bits; log2(K) when all are used alike."""
        share_LK = self.count_LK / self.count_LK.sum(1, keepdims=True)
        return -(share_LK * np.log2(np.where(share_LK > 0, share_LK, 1))).sum(1)

    def row(self) -> dict[str, object]:
        """For logs and figures."""
        return {
            "reconstruction": self.reconstruction,
            "collision_rate": self.collisions / len(self.code_UL),
            "usage": [round(float(share), 4) for share in self.used / self.count_LK.shape[1]],
            "entropy": [round(float(bits), 3) for bits in self.entropy],
        }


@torch.inference_mode()
def encode(model: Model, vector_UV: Tensor) -> np.ndarray:
    """[U, D] latents, a block at a time."""
    return np.concatenate([model.encoder(block).cpu().numpy() for block in torch.split(vector_UV, BLOCK)])


@torch.inference_mode()
def evaluate(model: Model, vector_UV: Tensor) -> Evaluation:
    """Codes of all vectors and the losses with them."""
    latent_UD = encode(model, vector_UV)
    codebook_LKD = model.codebook_LKD.cpu().numpy()
    code_UL, _ = greedy(latent_UD, list(codebook_LKD))
    levels, codes, _ = codebook_LKD.shape
    residual_UD, quantisation = latent_UD, 0.0
    for level in range(levels):
        residual_UD = residual_UD - codebook_LKD[level][code_UL[:, level]]
        quantisation += (1 + model.config.commitment) * float((residual_UD**2).mean()) / levels
    quantised = torch.from_numpy(latent_UD - residual_UD).to(vector_UV.device)
    squares = [float(F.mse_loss(model.decoder(part), block, reduction="sum"))
               for part, block in zip(torch.split(quantised, BLOCK), torch.split(vector_UV, BLOCK), strict=True)]  # fmt: skip
    reconstruction = sum(squares) / vector_UV.numel()
    return Evaluation(
        latent_UD=latent_UD,
        code_UL=code_UL,
        reconstruction=reconstruction,
        loss=reconstruction + model.config.quantisation_weight * quantisation,
        collisions=len(code_UL) - len(np.unique(code_UL, axis=0)),
        count_LK=np.stack([np.bincount(code_U, minlength=codes) for code_U in code_UL.T]),
    )


def collapsed_levels(found: Evaluation, share: float) -> np.ndarray:
    """Levels that use at most this share of their codes, or one, while items still collide."""
    codes = found.count_LK.shape[1]
    if codes == 1 or found.collisions == 0:
        return np.empty(0, dtype=np.int64)
    return np.flatnonzero(found.used <= max(1, share * codes))


def diagnosis(found: Evaluation, levels: np.ndarray, config: rqvae.Config) -> str:
    """What collapsed, and what to try."""
    level, codes = int(levels[0]), found.count_LK.shape[1]
    tries = ["-o standardise=true"] if not config.standardise else []
    tries += ["-o restart_every=1"] if not config.restart_every else []
    advice = " and ".join(tries) or "a lower -o learning_rate or -o quantisation_weight"
    return (
        f"level {level + 1} of {len(found.used)} uses {found.used[level]:,} of {codes:,} codes, and "
        f"{found.collisions:,} of {len(found.code_UL):,} items with different vectors collide: the codebook collapsed. Try {advice}"
    )
