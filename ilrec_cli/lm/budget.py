"""How much memory an update takes, before there is any: the step itself runs on tensors that have shapes and no data.

What one device holds at the worst moment of an update, by kind:

    weights      the model's parameters and buffers, trained or not
    optimiser    AdamW's two moments, each of the size and format of what is trained
    gradients    of the size of what is trained
    casts        copies of weights in the format of the pass (autocast keeps them until the pass is over)
    activations  what the blocks' forward pass leaves for its backward pass
    logits       what head and loss make from it: (k + 1) N V numbers, in as many forms as the loss needs
    working      made in the backward pass: gradients on their way, recomputed activations; the batch itself
    exchange     of several devices: buckets of gradients, or weights that are fetched from shards

All but the last line comes from following the step; what follows from the number of devices is a formula.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ilrec_cli import checkpoint, devices
from ilrec_cli.lm.backbone import causal_lm
from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.live import LiveBytes
from ilrec_cli.lm.model import Loss, Rewards, SupervisedLM, decoder
from ilrec_cli.lm.terms import Terms

KINDS = ("weights", "optimiser", "gradients", "casts", "activations", "logits", "working", "exchange")
SHARDED = ("weights", "optimiser", "gradients")
MOMENTS = 2  # of AdamW, in the format of the weights


class Shape(NamedTuple):
    """A micro-batch without its contents."""

    rows: int
    width: int
    positions: int  # supervised
    targets: int
    history: int  # longest
    children: int  # of a trie node at most; 0: the loss gets no rewards


@dataclass(frozen=True)
class Pass:
    """How a step is run."""

    loss: Loss
    weights: dict[str, float]
    chunk: int | None = None
    dtype: str = "float32"
    accumulates: bool = False  # gradients of earlier micro-batches are there
    values: bool = True  # whether rewards have values, besides which tokens continue an item


@dataclass(frozen=True)
class Budget:
    """Bytes on one device at the worst moment of an update, by kind (KINDS), and what sharding needs to know."""

    peak: Counter[str]
    trained: int  # bytes of trained parameters
    root: int  # numbers outside the blocks: embeddings, norm, head
    block: int  # numbers of the largest block
    width: int  # bytes of a number in the format of the pass

    @property
    def total(self) -> int:
        return self.peak.total()

    @property
    def above_model(self) -> int:
        """Above the loaded model: all but its weights."""
        return self.total - self.peak["weights"]

    def copies(self, world: int) -> Counter[str]:
        """Data parallel: a whole copy on each device. The buckets in which gradients travel are one more copy of them."""
        return self.peak + Counter({"exchange": self.trained if world > 1 else 0})

    def shards(self, world: int) -> Counter[str]:
        """FSDP over `world` devices. Weights, gradients and moments are shared out evenly: a world-th of each.

        A pass fetches weights in its own format, so that autocast copies none. The root's stay from the first to the last
        moment; of the blocks, one is at work while the next is fetched. Gradients leave as they come, in the format of
        the pass and then as float32 for their sum: the root's with the last block's.
        """
        kept = Counter({kind: -(-self.peak[kind] // world) for kind in SHARDED})
        fetched = self.width * (self.root + 2 * self.block)
        leaving = (self.width * (self.root + self.block) + 4 * max(self.root, self.block)) if self.trained else 0
        passing = Counter({kind: self.peak[kind] for kind in ("activations", "logits", "working")})
        return kept + passing + Counter({"exchange": fetched + leaving})


def without_data(model: Any, mode: FakeTensorMode) -> Any:
    """The model with fake parameters and buffers on the CPU (a model on the meta device has shapes alone, too).

    Fake ones know a device, so autocast and attention behave as they will. Tied parameters stay tied.
    """
    made: dict[int, torch.Tensor] = {}
    with mode, torch.no_grad():
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = _fake(parameter, made)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = _fake(buffer, made)
    return model


def measure(model: SupervisedLM, shape: Shape, how: Pass, mode: FakeTensorMode, shards: int = 1) -> Budget:
    """The memory of one update; `model` comes from `without_data`. With shards the worst moment is that of one of them."""
    live = LiveBytes(dict.fromkeys(SHARDED, 1 / shards) | ({"casts": 0.0} if shards > 1 else {}))
    trained = list(checkpoint.trainable(model).values())
    handles = _follow(live, model, trained)
    try:
        with mode, live:
            live.adopt((tensor for tensor in (*model.parameters(), *model.buffers())), "weights")
            live.kind = "optimiser"
            moments = [torch.empty_like(parameter) for parameter in trained for _ in range(MOMENTS)]
            live.kind = "gradients"
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter) if how.accumulates else None
            live.kind = "batch"
            batch, rewards = _batch(shape, how)
            _forward_backward(live, model, batch, rewards, how)
            for parameter in trained:
                parameter.grad = None
            del moments
    finally:
        for handle in handles:
            handle.remove()
    live.peak["working"] += live.peak.pop("batch", 0)
    return Budget(
        peak=Counter({kind: size for kind, size in live.peak.items() if size}),
        trained=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        **_groups(model),
        width=4 if how.dtype == "float32" else 2,
    )


def _forward_backward(live: LiveBytes, model: SupervisedLM, batch: Batch, rewards: Rewards | None, how: Pass) -> None:
    """As the loop does it, without looking at numbers."""
    model.train()
    with devices.autocast(torch.device("cpu"), how.dtype), _one_sequence_a_row():
        terms: Terms = model(batch, how.loss, rewards, how.chunk)
    loss: Any = sum(weight * terms.losses[name][0] for name, weight in how.weights.items() if weight)
    live.kind = "working"
    loss.backward()


@contextmanager
def _one_sequence_a_row() -> Iterator[None]:
    """`transformers` reads positions to see whether rows hold several sequences; without data it takes them to, and masks."""
    from transformers import masking_utils

    name = "find_packed_sequence_indices"
    before = getattr(masking_utils, name, None)
    if before is None:  # another version: at worst the plan counts a mask
        yield
        return
    setattr(masking_utils, name, lambda position_ids: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, before)


def _follow(live: LiveBytes, model: SupervisedLM, trained: list[torch.nn.Parameter]) -> list[Any]:
    """Hooks that say what is being made: activations inside the blocks, logits after them, gradients at the end."""

    def enter(*_: Any) -> None:
        if live.kind != "working":
            live.kind = "activations"

    def leave(*_: Any) -> None:
        if live.kind != "working":
            live.kind = "logits"

    stack = decoder(causal_lm(model.backbone))
    handles = [stack.register_forward_pre_hook(enter), stack.register_forward_hook(leave)]

    def arrived(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            live.adopt(iter([parameter.grad]), "gradients")

    for parameter in trained:
        handles.append(parameter.register_post_accumulate_grad_hook(arrived))  # type: ignore[no-untyped-call]
    return handles


def _batch(shape: Shape, how: Pass) -> tuple[Batch, Rewards | None]:
    def whole(*size: int) -> torch.Tensor:
        return torch.zeros(*size, dtype=torch.long)

    grid = (shape.rows, shape.width)
    position, target, node, event = (whole(shape.positions) for _ in range(4))
    history = whole(shape.targets, shape.history)
    batch = Batch(whole(*grid), whole(*grid), position, target, node, event, history)
    if not shape.children:
        return batch, None
    values = torch.zeros(shape.positions, shape.children) if how.values else None
    return batch, Rewards(whole(shape.positions, shape.children), values)


def _groups(model: SupervisedLM) -> dict[str, int]:
    """Numbers in the largest block, and outside of blocks."""
    blocks = list(getattr(decoder(causal_lm(model.backbone)), "layers", []))
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    every = sum(parameter.numel() for parameter in model.parameters())
    return {"root": every - sum(sizes), "block": max(sizes, default=0)}


def _fake(tensor: torch.Tensor, made: dict[int, torch.Tensor]) -> Any:
    if id(tensor) not in made:
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        made[id(tensor)] = torch.nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_parameter else empty
    return made[id(tensor)]
