"""What TRL's DPOTrainer makes of given log-probabilities: python tests/methods/trl_golden.py, with TRL installed.

Writes trl_golden.json beside this file: per-token log-probabilities, the reference's sums, and the loss with its gradient.
Its own method runs, on an object that has no more than the method asks for.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

FILE = Path(__file__).with_suffix(".json")
PAIRS, TOKENS, PROMPT = 6, 5, 3


class Anything:
    """Whatever the method wants of an accelerator."""

    device = torch.device("cpu")

    def gather_for_metrics(self, value: Any) -> Any:
        return value

    gather = gather_for_metrics


def trl_loss(log_prob: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, beta: float) -> torch.Tensor:
    """The mean loss of pairs; rows are all chosen ones, then all rejected ones."""
    from trl import DPOTrainer

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False), accelerator=Anything(), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0], beta=beta,
        use_weighting=False, _total_train_tokens=0, _metrics=defaultdict(lambda: defaultdict(list)),
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.long), "completion_mask": mask,
        "ref_chosen_logps": reference[:PAIRS], "ref_rejected_logps": reference[PAIRS:],
    }  # fmt: skip
    nothing = torch.zeros(log_prob.shape)
    output = SimpleNamespace(log_probs=log_prob, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())
    loss: torch.Tensor = DPOTrainer._compute_loss(trainer, lambda **_: output, inputs, False)
    return loss


def main() -> None:
    import trl

    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(2 * PAIRS, PROMPT + TOKENS, dtype=torch.long)
    for row in range(2 * PAIRS):
        mask[row, PROMPT : PROMPT + 2 + row % (TOKENS - 1)] = 1
    log_prob = -3 * torch.rand(mask.shape[0], mask.shape[1] - 1, generator=generator, dtype=torch.float64) * mask[:, 1:]
    reference = -6 * torch.rand(2 * PAIRS, generator=generator, dtype=torch.float64)
    found = {
        "trl": trl.__version__,
        "mask": mask.tolist(),
        "log_prob": log_prob.tolist(),
        "reference": reference.tolist(),
    }
    for beta in (0.1, 1.0):
        given = log_prob.clone().requires_grad_()
        loss = trl_loss(given, reference, mask, beta)
        loss.backward()
        assert given.grad is not None
        found[f"beta {beta}"] = {"loss": loss.item(), "gradient": given.grad.tolist()}
    FILE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
