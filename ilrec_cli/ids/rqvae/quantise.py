"""Vectors to codes with a trained RQ-VAE. Shapes: I items, U different vectors, V their dimensions, D of the latent."""

from __future__ import annotations

import math

import numpy as np

from ilrec_cli.errors import UserError
from ilrec_cli.ids import rqvae
from ilrec_cli.ids._quantise import Job, Quantised, as_bytes, automatic_codes, greedy
from ilrec_cli.ids.rqvae.train import Trainer

BLOCK = 1 << 15  # vectors encoded at a time


def fit(vectors_ID: np.ndarray, config: rqvae.Config, rng: np.random.Generator, job: Job) -> Quantised:
    """Train on the different vectors, in an order of their own, so that the order of the items does not matter."""
    vector_UV, _ = distinct(vectors_ID)
    shift_V, scale = standard(vector_UV) if config.standardise else (np.zeros_like(vector_UV[0]), np.float32(1))
    codes = min(config.codes or automatic_codes(len(vector_UV), 256), len(vector_UV))
    if codes < config.codes:
        job.console.warn(f"codes is {config.codes:,}, but only {codes:,} items differ: {codes:,} codes a level")
    trainer = Trainer((vector_UV - shift_V) * scale, codes, config, int(rng.integers(2**63)), job)
    best = trainer.run()
    weights = {f"encoder.{name}": tensor.cpu().numpy() for name, tensor in trainer.model.encoder.state_dict().items()}
    weights |= {"shift": shift_V, "scale": np.array([scale], dtype=np.float32)}
    latent_ID = latent(vectors_ID, weights, config)
    codebook_LKD = list(trainer.model.codebook_LKD.detach().cpu().numpy())
    training = {
        "different_vectors": len(vector_UV),
        "epochs": trainer.epochs,
        "best_epoch": trainer.progress.best_epoch,
        "restarted_codes": trainer.progress.restarted,
        **best.row(),
    }
    return Quantised(greedy(latent_ID, codebook_LKD)[0], latent_ID, codebook_LKD, weights, {"training": training})


def latent(vectors_ID: np.ndarray, weights: dict[str, np.ndarray], config: rqvae.Config) -> np.ndarray:
    """The encoder's outputs [I, D]; equal vectors have equal ones."""
    vector_UV, where_I = distinct(vectors_ID)
    shape = f"vectors of {vector_UV.shape[1]} dimensions, the encoder takes {len(weights['shift'])}"
    if vector_UV.shape[1] != len(weights["shift"]):
        raise UserError(f"RQ-VAE: {shape}. Encode the items' text as it was for these identifiers")
    blocks = np.array_split(vector_UV, -(-len(vector_UV) // BLOCK))
    return np.concatenate([_encode(block, weights) for block in blocks])[where_I]


def _encode(vector_UV: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    hidden_U = (vector_UV - weights["shift"]) * weights["scale"]
    layers = sum(name.endswith(".weight") for name in weights)
    for layer in range(layers):
        if layer:
            hidden_U = np.maximum(hidden_U, 0)
        name = f"encoder.{2 * layer}"  # in between stand the ReLU
        hidden_U = hidden_U @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return hidden_U


def distinct(vectors_ID: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the different vectors in an order that depends on nothing else, which of them each item has).

    Items with the same vector cannot be told apart, so they are one row of training: a shop with many items without
    text would else spend its balanced batches on them.
    """
    vectors_ID = np.asarray(vectors_ID, dtype=np.float32) + np.float32(0)  # -0.0 becomes 0.0
    if not np.isfinite(vectors_ID).all():
        item = int(np.flatnonzero(~np.isfinite(vectors_ID).all(1))[0])
        raise UserError(f"RQ-VAE: the vector of item {item} is not finite. Check the encoder or the file of vectors")
    _, first_U, where_I = np.unique(as_bytes(vectors_ID), return_index=True, return_inverse=True)
    return vectors_ID[first_U], where_I


def standard(vector_UV: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """(shift, scale) that bring the vectors to mean 0 and a mean variance of 1; directions keep their proportions."""
    exact_UV = vector_UV.astype(np.float64)
    shift_V = exact_UV.mean(0)
    variance = float(((exact_UV - shift_V) ** 2).mean())
    return shift_V.astype(np.float32), np.float32(1 / math.sqrt(variance) if variance > 0 else 1)
