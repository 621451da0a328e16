"""RQ-VAE: an autoencoder of the item vectors whose latent is quantised level by level (TIGER, LC-Rec).

Sources: S. Rajput et al., "Recommender systems with generative retrieval" (TIGER), arXiv 2305.05065; B. Zheng et al.,
"Adapting large language models by integrating collaborative semantics" (LC-Rec), arXiv 2311.09049, whose losses,
balanced last level and selection by collision rate these are. docs/ids-rqvae.md says where the defaults differ and why;
`--preset lc-rec` has the published numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

QUANTISES = True


@dataclass(frozen=True, kw_only=True)
class Config:
    levels: Annotated[int, "codes per item"] = 4
    codes: Annotated[int, "codes per level; 0: a power of two near twice the square root of the items, at most 256"] = 0
    code_size: Annotated[int, "dimensions of the latent and of every code"] = 32
    hidden: Annotated[tuple[int, ...], "widths between input and latent; the decoder mirrors them"] = (512, 256, 128)
    standardise: Annotated[bool, "centre the vectors and bring them to a mean variance of 1 first"] = True
    quantisation_weight: Annotated[float, "weight of the quantisation loss beside reconstruction"] = 1.0
    commitment: Annotated[float, "weight of the pull on the latent towards its codes (beta)"] = 0.25
    residual: Annotated[
        Literal["detached_code", "straight_through"],
        "what a level hands to the next: minus the code as a constant, so that every level's commitment reaches the "
        "encoder, or minus the straight-through code, as LC-Rec does, where only the first level's does",
    ] = "detached_code"
    separation: Annotated[float, "weight of the push that parts items of a batch with the same path; LC-Rec: 0"] = 5.0
    sinkhorn_epsilon: Annotated[float, "smoothing of the balanced last level in training; 0: nearest codes"] = 0.003
    sinkhorn_iterations: Annotated[int, "rounds of balancing"] = 50
    kmeans_iterations: Annotated[int, "of the k-means that starts the codebooks"] = 25
    batch_size: Annotated[int, "items a step, at most; the batches of an epoch are of equal size"] = 256
    epochs: Annotated[int, "passes over the items; 0: about 16,000 steps in 20 to 400 epochs"] = 0
    learning_rate: Annotated[float, "of AdamW, after the warm-up; then down to 0 in a line"] = 1e-3
    weight_decay: Annotated[float, "of AdamW"] = 1e-4
    warmup: Annotated[float, "share of the steps in which the learning rate rises"] = 0.05
    clip: Annotated[float, "largest norm of the gradient"] = 1.0
    evaluate_every: Annotated[int, "epochs between evaluations (and checkpoints); 0: 40 in the whole training"] = 0
    settle: Annotated[float, "share of the training after which the best weights may be kept"] = 0.5
    restart_every: Annotated[int, "evaluations between restarts of codes that no item has; 0: never"] = 1
    collapse: Annotated[float, "a level is collapsed when at most this share of its codes is used"] = 0.05
    collapse_patience: Annotated[
        int, "evaluations in a row with a collapsed level, after the warm-up, that stop the training; 0: never"
    ] = 3

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 20 or self.codes < 0 or self.code_size < 1:
            raise ValueError("needs levels in 1..20, codes >= 0 (0: automatic) and code_size >= 1")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden is {self.hidden}, expected positive widths such as 512,256,128")
        if 0 < self.sinkhorn_epsilon < 0.003 or self.sinkhorn_epsilon < 0:
            raise ValueError(
                f"sinkhorn_epsilon is {self.sinkhorn_epsilon}, expected 0 (off) or at least 0.003: "
                "below, the balancing leaves the range of float64"
            )
        for name in ("sinkhorn_iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("quantisation_weight", "commitment", "separation", "kmeans_iterations", "epochs", "weight_decay", "evaluate_every",
                     "restart_every", "collapse_patience"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        if not (self.learning_rate > 0 and self.clip > 0):
            raise ValueError("learning_rate and clip must be positive")
        if not all(0 <= share < 1 for share in (self.warmup, self.settle, self.collapse)):
            raise ValueError("warmup, settle and collapse lie in [0, 1)")


PRESETS: dict[str, dict[str, Any]] = {
    "lc-rec": {
        "levels": 4, "codes": 256, "code_size": 32, "hidden": (2048, 1024, 512, 256, 128, 64), "standardise": False,
        "quantisation_weight": 1.0, "commitment": 0.25, "residual": "straight_through", "separation": 0.0, "sinkhorn_epsilon": 0.003,
        "sinkhorn_iterations": 50, "kmeans_iterations": 100, "batch_size": 1024, "epochs": 10_000,
        "learning_rate": 1e-3, "weight_decay": 1e-4, "warmup": 0.005, "clip": 1.0, "evaluate_every": 50,
        "settle": 0.0, "restart_every": 0,
    },
}  # fmt: skip
