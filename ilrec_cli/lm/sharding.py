"""A model on several processes: a copy on each (DDP), or weights, gradients and optimiser state in shards (FSDP2).

`Parallel` is what the loop sees of it, and the same for one process. Sharding is torch's `fully_shard` itself, so that the
same code runs on CPUs (gloo) and GPUs; accelerate's own FSDP is silently replaced by DDP on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from ilrec_cli import checkpoint, devices
from ilrec_cli.errors import UserError
from ilrec_cli.lm.backbone import causal_lm
from ilrec_cli.lm.model import SupervisedLM, decoder

T = TypeVar("T")


class Parallel:
    """A model on this process's device, and what the processes do together. One process is the simplest case."""

    def __init__(self, model: SupervisedLM, accelerator: Any, *, shard: bool = False, dtype: str = "float32"):
        self.model, self.accelerator, self.dtype = model, accelerator, dtype
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.main: bool = accelerator.is_main_process
        self.device: torch.device = accelerator.device
        # Flags and names go through the CPU: asking for them does not wait for a GPU.
        self._hosts = dist.new_group(backend="gloo") if self.world > 1 else None
        self.sharded = shard and self.world > 1
        self._idle = False
        if self.sharded:
            _shard(model, self.device, dtype)
            self.module: Any = model
            self.together(self._empty_pass)  # settles who is whose root, outside of inference mode
        else:
            self.module = accelerator.prepare(model)

    def autocast(self) -> AbstractContextManager[Any]:
        return devices.autocast(self.device, self.dtype)

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around the passes of a micro-batch. Copies exchange gradients once a step; shards at once, or none is saved."""
        return nullcontext() if last or self.sharded else self.accelerator.no_sync(self.module)

    def agree(self, flag: object) -> bool:
        """Whether it holds on any process; the same answer everywhere."""
        if self._hosts is None:
            return bool(flag)
        found = torch.tensor(int(bool(flag)))
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self._hosts)
        return bool(found)

    def gather(self, thing: T) -> list[T]:
        """A small object (names, counts) of every process, in their order."""
        if self._hosts is None:
            return [thing]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, thing, group=self._hosts)
        return found

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.world == 1 else self.accelerator.reduce(values, "sum")

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def together(self, call: Callable[[], T]) -> T:
        """The result of a call that uses the backbone outside the loss (decoding, generating), on every process at once.

        Processes may make different numbers of passes: with shards, whoever is done first makes empty ones until all
        are, because every pass fetches every shard.
        """
        if not self.sharded:
            return call()
        hook = decoder(causal_lm(self.model.backbone)).register_forward_pre_hook(self._before_pass)
        try:
            return self.model.within(lambda: self._joined(call))
        finally:
            hook.remove()
            # The root's group waits, whole, for a backward pass that does not come here.
            self.module.reshard()

    def _joined(self, call: Callable[[], T]) -> T:
        result = call()
        self._idle = True
        try:
            while self.agree(False):
                self._empty_pass()
        finally:
            self._idle = False
        return result

    def _before_pass(self, *_: Any) -> None:
        if not self._idle:
            self.agree(True)

    @torch.no_grad()
    def _empty_pass(self) -> None:
        decoder(causal_lm(self.model.backbone))(
            input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.device), use_cache=False
        )

    def unshard_for_saving(self) -> None:
        """Make the first process's model a plain one on its CPU; nothing can be trained after that."""
        if not self.sharded:
            return
        whole: dict[int, torch.nn.Parameter] = {}  # tied parameters stay tied
        for module in self.model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) not in whole:
                    full = checkpoint.whole(parameter.detach())
                    kept = full.cpu() if self.main else full.new_empty(0)
                    whole[id(parameter)] = torch.nn.Parameter(kept, requires_grad=parameter.requires_grad)
                    whole[id(whole[id(parameter)])] = whole[id(parameter)]
                setattr(module, name, whole[id(parameter)])
        if self.main:
            for module in self.model.modules():
                for name, buffer in module.named_buffers(recurse=False):
                    setattr(module, name, buffer.cpu())


def _shard(model: SupervisedLM, device: torch.device, dtype: str) -> None:
    """Shard block by block, the rest (embeddings, norm, head) as one group that stays whole during a pass."""
    try:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
    except ImportError as error:
        raise UserError(f"--shard needs torch 2.6 or newer, this is {torch.__version__}") from error
    inner = causal_lm(model.backbone)
    blocks = getattr(decoder(inner), "layers", None)
    if not blocks:
        raise UserError(f"--shard: {type(inner).__name__} has no list of decoder blocks that ilrec knows")
    low = dtype != "float32"
    # Weights and their sums stay float32; what is fetched for a pass has the format of the pass.
    policy = MixedPrecisionPolicy(
        param_dtype=devices.DTYPES[dtype] if low else None,
        reduce_dtype=torch.float32 if low else None,
        cast_forward_inputs=False,  # rewards stay float32
    )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "within")
