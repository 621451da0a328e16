"""The processes a run is launched on, and the trackers it reports to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ilrec_cli import devices
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Train

# One process may make data for long while the others wait; NCCL would give up after ten minutes. No longer: a hang must end.
PATIENCE = timedelta(hours=1)
# What `accelerate launch` sets for modes that were never tested here: silently training in another one would be worse.
REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed is not supported (untested)",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM is not supported (untested)",
    "ACCELERATE_USE_FSDP": "accelerate's FSDP is not used",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "accelerate's parallelism configuration is not used",
}


def make_accelerator(settings: Train, folder: Path | None = None) -> Any:
    """The processes and the device; refuses to run alone where several processes were launched.

    `folder` is where local trackers write.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    _refuse_modes()
    device = devices.resolve(settings.device)
    devices.keep_freed_memory(device)
    if device.index is not None:
        torch.cuda.set_device(device)  # accelerate takes the current one
    track = _available(settings.track)
    accelerator = Accelerator(
        cpu=device.type == "cpu", mixed_precision="no", log_with=track, project_dir=folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )  # fmt: skip
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != world:
        raise UserError(
            f"{world} processes were launched, accelerate sees {accelerator.num_processes}; check its configuration"
        )
    return accelerator


Arrays = dict[str, np.ndarray]


def once_a_machine(make: Callable[[], Arrays], accelerator: Any) -> Arrays:
    """Arrays that one process of every machine makes; the others map its files instead of holding copies.

    The files lie in TMPDIR; their names are gone when this returns, their space when the processes end. What one of them
    cannot do is raised in all.
    """
    if accelerator.num_processes == 1:
        return make()
    from accelerate.utils import gather_object

    with ExitStack() as stack:
        folder, error = "", None  # type: str, Exception | None
        if accelerator.local_process_index == 0:
            try:
                # NFS keeps what is mapped under another name in the folder until the end.
                folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
                for name, array in make().items():
                    np.save(Path(folder) / f"{name}.npy", array)
            except OSError as problem:
                error = UserError(f"tokens for the other processes: {problem}. Set TMPDIR to a folder with room")
            except Exception as problem:  # the others would wait for ever
                error = problem
        told = gather_object([(folder, error)])
        if error := next((error for _, error in told if error is not None), None):
            raise error
        made = Path(told[accelerator.process_index - accelerator.local_process_index][0])
        arrays = {path.stem: _mapped(path) for path in sorted(made.glob("*.npy"))}
        accelerator.wait_for_everyone()
    return arrays


def _mapped(path: Path) -> np.ndarray:
    # Small ones are read: an empty one cannot be mapped. `asarray`: an array of the usual class over the same memory.
    return np.asarray(np.load(path, mmap_mode="r" if path.stat().st_size > 4096 else None))


@contextmanager
def tracked(accelerator: Any, run: str, recorded: dict[str, Any]) -> Iterator[None]:
    """Trackers of `--track`, if any, open while the block runs."""
    flat = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in recorded.items()}
    # TensorBoard makes a folder of the name; for the others it is the project, and the run has a name of its own.
    named = {"wandb": {"name": run}, "mlflow": {"run_name": run}}
    here = "tensorboard" in map(str, accelerator.log_with)  # accelerate has made an enumeration of the name
    accelerator.init_trackers("tensorboard" if here else "ilrec", flat, named)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def _refuse_modes() -> None:
    for variable, what in REFUSED.items():
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes", "y", "on", "t"):
            raise UserError(
                f"{what}: launch with a plain configuration (examples/accelerate/), and add --shard to spread weights, "
                "gradients and optimiser state over the processes"
            )


def _available(track: str | None) -> str | None:
    if track is not None and find_spec(track) is None:
        raise UserError(f"--track {track}: the package is not installed; pip install 'ilrec[{track}]'")
    return track
