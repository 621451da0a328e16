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


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make inside the block until they are freed, under the kind of the moment.

    `now` and `peak` are bytes by kind: live ones, and those at the moment when most were live. Views and operations in
    place make nothing. Buffers inside a kernel are not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind = "other"
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._kinds: dict[int, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and self._kinds.get(_key(args[0])) == "weights"
        for tensor in _tensors(result):
            self._count(tensor, "casts" if cast else self.kind)
        if self.now.total() > self.peak.total():
            self.peak = self.now.copy()
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
