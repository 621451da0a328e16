"""What a training method tells the loop: its phases, and the weight of every loss term."""

from __future__ import annotations

from typing import NamedTuple


class Phase(NamedTuple):
    """A stretch of training on one kind of data with one loss.

    `data` is "next_item", or "module:function" in the plug-in; called with `lm.phases.Material` when the phase begins it
    returns a `lm.steps.Source`. `loss` is "module:function" too; called with the method's configuration it returns the
    pure loss. A module that starts with an underscore is one that plug-ins share. `epochs` and `learning_rate` are None where the command line decides, `weights` where the method does.
    """

    name: str
    data: str
    loss: str
    epochs: int | None = None
    learning_rate: float | None = None
    weights: dict[str, float] | None = None  # of this loss's terms in the total
    chooses: bool = False  # own data are there for candidate ranking too
    check: str | None = None  # "module:function": refuses options that the prompts cannot meet, before a run begins
    start: bool = False  # left out where the run starts from another one, --from


def sft() -> Phase:
    """Supervised fine-tuning, which preference methods start with unless they start from a run."""
    return Phase("sft", "next_item", "_sft:make_loss", weights={"ce": 1.0}, start=True)
