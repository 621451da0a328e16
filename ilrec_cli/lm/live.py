"""Which tensors are alive: bytes of storages by kind, followed operation by operation, also of tensors without data.

Under `FakeTensorMode` the very code of a training step runs on shapes alone: an 8B model takes seconds and no memory,
and what is counted is what the code does, not what a formula remembers of it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations make inside the block until they are freed, under the kind of the moment.

    `now` and `peak` are bytes by kind: live ones, and those at the moment when most were live. `shares` says how much of a
    kind counts for "most" (a device that holds a shard); 1 where it says nothing. Views and operations in place make
    nothing. Buffers inside a kernel are not seen.
    """

    def __init__(self, shares: dict[str, float] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shares = shares or {}
        self._most = 0.0
        self.kind = "other"
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._kinds: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and self._kinds.get(_key(args[0])) == "weights"
        for tensor in _tensors(result):
            self._count(tensor, "casts" if cast else self.kind)
        total = sum(size * self.shares.get(kind, 1.0) for kind, size in self.now.items())
        if total > self._most:
            self._most, self.peak = total, self.now.copy()
        return result

    def adopt(self, tensors: Iterator[torch.Tensor], kind: str) -> None:
        """Count tensors that were there before, or count them under another kind."""
        for tensor in tensors:
            old = self._kinds.get(_key(tensor))
            if old is None:
                self._count(tensor, kind)
            elif old != kind:
                size = tensor.untyped_storage().nbytes()
                self.now[old] -= size
                self.now[kind] += size
                self._kinds[_key(tensor)] = kind

    def _count(self, tensor: torch.Tensor, kind: str) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._kinds or not storage.nbytes():
            return
        self._kinds[key] = kind
        self.now[kind] += storage.nbytes()
        weakref.finalize(storage, self._release, key, storage.nbytes()).atexit = False

    def _release(self, key: int, size: int) -> None:
        self.now[self._kinds.pop(key)] -= size


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
