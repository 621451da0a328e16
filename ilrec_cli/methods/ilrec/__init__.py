"""ILRec: self-hard negatives from intermediate layers, during ordinary supervised fine-tuning.

High-probability tokens of the layers just below the last are token-level negatives (CPO, eq. 7), the last layer
teaches those layers (CPD, eq. 8), and a collaborative model's scores keep false negatives from being over-penalised
(CRR, eq. 11): one forward pass, no sampling, no reference model. Source: arXiv 2602.17410.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ilrec_cli.methods._phase import Phase

NEEDS = ("inner_layers", "cf_scores", "trie_tokens")
_WEIGHTS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1)
# Values that were searched: `ilrec sweep --grid NAME`. The paper's: Implementation Details and Table 6.
GRIDS = {
    "paper": {"alpha": (0.1, 0.5, 0.8, 1.0, 1.2), "beta": (0.005, 0.01, 0.05, 0.1, 0.2), "lambda_cpd": _WEIGHTS,
              "mu_crr": _WEIGHTS},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """Defaults: alpha and beta are the paper's best on Instruments with LC-Rec (Table 6); it states no lambda and mu."""

    alpha: Annotated[float, "a token is a negative from alpha times the target's probability (eq. 4)"] = 0.8
    beta: Annotated[float, "strength of the penalty on negatives (eq. 7)"] = 0.1
    lambda_cpd: Annotated[float, "weight of the distillation into intermediate layers (eq. 9)"] = 0.01
    mu_crr: Annotated[float, "weight of the collaborative rewards (eq. 12)"] = 0.01
    layers: Annotated[str, "auto, consecutive:K, offsets from the last layer (-1,-2), or random:K:-1:-8"] = "auto"
    ensemble: Annotated[
        Literal["mean", "max_prob", "entropy", "variance"], "weights of the layers in eq. 3 (Table 10)"
    ] = "mean"
    negatives_from: Annotated[
        Literal["ensemble", "final"], "which logits the negatives come from; final is 'w/o CNS'"
    ] = "ensemble"
    negatives_scope: Annotated[
        Literal["vocab", "trie"], "negatives among all tokens, or those that continue an item"
    ] = "vocab"
    weight_by: Annotated[Literal["logits", "probs"], "what the softmax of eq. 6 is taken of"] = "logits"
    penalty: Annotated[
        Literal["scale", "shift"], "eq. 7 as printed, or P + beta w |P|, which never rewards a negative logit"
    ] = "scale"
    kl: Annotated[Literal["student_teacher", "teacher_student"], "direction of eq. 8; as printed by default"] = (
        "student_teacher"
    )
    crr_scope: Annotated[
        Literal["trie", "all"], "soft labels on negatives that continue an item, or on all (reward 0)"
    ] = "trie"
    layer_head: Annotated[
        Literal["shared", "separate"], "intermediate layers use the model's norm and head, or have adapted ones each"
    ] = "shared"
    layer_head_rank: Annotated[int, "rank of the adapters of separate heads"] = 8
    detach_head: Annotated[bool, "keep the distillation's gradient out of the shared norm and head"] = False

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "lambda_cpd", "mu_crr"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        if self.layer_head_rank < 1:
            raise ValueError(f"layer_head_rank is {self.layer_head_rank}, expected at least 1")
        if self.layer_head == "separate" and not self.lambda_cpd:
            raise ValueError("layer_head = separate is trained by the distillation alone: lambda_cpd must be above 0")
        if self.layer_head == "separate" and self.detach_head:
            raise ValueError("layer_head = separate never trains the shared head: leave detach_head out")


def phases(config: Config) -> list[Phase]:
    return [Phase("ilrec", "next_item", "loss:make_loss")]


def weights(config: Config) -> dict[str, float]:
    """Weight of every loss term in the total: L = L_CPO + lambda L_CPD + mu L_CRR (eq. 9, 12)."""
    return {"cpo": 1.0, "cpd": config.lambda_cpd, "crr": config.mu_crr}


def needs(config: Config) -> tuple[str, ...]:
    """What this configuration really uses of NEEDS: a collaborative model only with mu, layers only where they count."""
    negatives = config.beta > 0 or config.mu_crr > 0
    used = {
        "inner_layers": config.lambda_cpd > 0 or (config.negatives_from == "ensemble" and negatives),
        "cf_scores": config.mu_crr > 0,
        "trie_tokens": config.negatives_scope == "trie",  # the log counts negatives even where no term uses them
    }
    return tuple(name for name in NEEDS if used[name])
