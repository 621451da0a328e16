"""The weights with which a phase began, to run the model with them again: a reference that answers of today are scored by.

What is not trained is shared with the model, so under adapters a copy of these alone is held; under full fine-tuning a
whole one, on the model's device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ilrec_cli import checkpoint
from ilrec_cli.lm.phases import Material
from ilrec_cli.lm.sharding import Parallel


class Frozen:
    """Copies of trained weights; `in_place` exchanges them with the model's, bit for bit."""

    def __init__(self, parallel: Parallel):
        self.parallel, self.kept = parallel, _copies(parallel)

    @classmethod
    def at_start(cls, material: Material) -> Frozen:
        """Those of the phase's first step, whatever the model has been trained to since: a file keeps them for --resume."""
        parallel, run = material.parallel, material.folder.parent.parent
        path = checkpoint.last(run).with_name(f"start-{material.phase + 1}.safetensors")  # goes with the checkpoints
        with material.cost.timed("making_seconds"):
            if not parallel.agree(path.is_file()):
                checkpoint.save(path, parallel.model, None, {}, write=parallel.main)
                parallel.wait()
                return cls(parallel)
        frozen = cls(parallel)
        checkpoint.load(path, parallel.model, None)
        with torch.no_grad():
            frozen._exchange()
        return frozen

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with these weights. Shards are gathered anew by every pass, so none may be under way."""
        with torch.no_grad():
            self._exchange()
            try:
                yield
            finally:
                self._exchange()

    def _exchange(self) -> None:
        for kept, parameter in zip(self.kept, checkpoint.trainable(self.parallel.model).values(), strict=True):
            aside = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(aside)


def _copies(parallel: Parallel) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in checkpoint.trainable(parallel.model).values()]
