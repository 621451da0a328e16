"""What a training method tells the loop: its phases, and the weight of every loss term."""

from __future__ import annotations

from typing import NamedTuple


class Phase(NamedTuple):
    """A stretch of training on one kind of data with one loss.

    `loss` is "module:function" in the plug-in; called with the method's configuration it returns the pure loss.
    `epochs` is None where the command line decides.
    """

    name: str
    data: str
    loss: str
    epochs: int | None = None
