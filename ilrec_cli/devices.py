"""Where a model runs and in which number format."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import torch

from ilrec_cli.errors import UserError

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # as torch says it, by device
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve(name: str) -> torch.device:
    """The device of --device: auto takes a GPU if there is one; a named one must be there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    kind, _, index = name.partition(":")
    if (
        kind not in ("cpu", "cuda")
        or (index and not (index.isdecimal() and len(index) < 4))
        or (kind == "cpu" and index)
    ):
        raise UserError(f"--device is '{name}', expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(index or 0) >= gpus:
        raise UserError(f"--device {name}: this machine (or this build of torch) has {gpus} GPUs; see: ilrec doctor")
    return torch.device(name)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of a device does not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Forward passes in a lower number format with float32 weights; nothing at float32."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[dtype])


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, let the allocator keep what is freed, instead of mapping fresh pages for every large tensor.

    A step frees and takes the same hundreds of megabytes again; with glibc's defaults the kernel clears each page every
    time, which cost a third of a training step where it was measured. Nothing happens with other C libraries.
    """
    if device.type != "cpu":
        return
    trim_threshold, mmap_threshold = -1, -3  # names in malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)
