"""Supervised fine-tuning: cross-entropy on the response tokens. The baseline, and where preference methods start.

Source: eq. 1 of the ILRec paper (arXiv 2602.17410); the paradigm is LC-Rec's (arXiv 2311.09049).
"""

from __future__ import annotations

from dataclasses import dataclass

from ilrec_cli.methods._phase import Phase

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    pass


def phases(config: Config) -> list[Phase]:
    return [Phase("sft", "next_item", "loss:make_loss")]


def needs(config: Config) -> tuple[str, ...]:
    """What this configuration uses of NEEDS: nothing."""
    return NEEDS


def weights(config: Config) -> dict[str, float]:
    """Weight of every loss term in the total."""
    return {"ce": 1.0}
