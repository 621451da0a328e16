"""What a training will take: parameters, steps, tokens, memory of a device, hours. Nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch

from ilrec_cli import devices
from ilrec_cli.console import Console
from ilrec_cli.lm.guessed import GuessedTokenizer
from ilrec_cli.settings import Plan
from ilrec_cli.stages import _backbones, _inputs, _models, _plan, _timing
from ilrec_cli.stages import _task as tasks
from ilrec_cli.stages._job import Task
from ilrec_cli.stages._plan import Estimate, Traffic

GIB = 2**30
RESERVE = (
    1.0,
    0.05,
)  # GiB of a GPU's context and libraries, and the share that is lost between tensors: assumed, not measured


def run(config: Plan) -> dict[str, Any]:
    """Print the plan, and return it."""
    console = Console.of(config)
    task = tasks.decided(config, rewards=config.measure)
    settings: Any = task.settings
    _, others = _plan.planned(task)
    opened = _backbones.equipped(_plan.open_shapes(task), settings, task.parents["ids"])
    examples = _plan.open_examples(task, opened)
    most = _plan.children(task, _models.catalogue(task.parents["ids"], opened.tokenizer))
    found = _plan.traffic(examples, settings, most)
    needed = _plan.estimate(task, found)
    room = _room(settings)
    fits = None if room is None else with_reserve(needed.total) <= room
    guessed = isinstance(opened.tokenizer, GuessedTokenizer)
    result = {
        "parameters": needed.parameters, "trained_parameters": needed.trained,
        "examples": len(examples), "targets": _plan.targets(examples),
        "steps": found.steps, "steps_per_epoch": found.epoch_steps, "tokens": found.tokens,
        "padded_tokens": found.padded, "supervised_tokens": found.supervised, "tokens_are_estimated": guessed,
        "micro_batches": [shape._asdict() for shape in found.shapes],
        "devices": settings.devices, "memory": _plan.described(needed.memory), "memory_total": needed.total,
        "memory_with_reserve": with_reserve(needed.total), "device_memory": room, "fits": fits, "advice": None,
        "phases_not_planned": others,
    }  # fmt: skip
    _show(result, settings, console)
    if fits is False:
        result["advice"] = _advise(task, found, room or 0, most, console)
    if config.measure:
        result["time"] = _timing.timed(task, found.steps, console)
    advice = result["advice"] or {"flags": "", "fits": True}
    if advice["fits"]:
        more = f" and {advice['flags']}" if advice["flags"] else ""
        console.say(f"Next: ilrec train {_inputs.flags(config)} with these flags{more}")
    return result


def with_reserve(total: int) -> int:
    """What a GPU needs free for tensors of `total` bytes."""
    return round(total * (1 + RESERVE[1]) + RESERVE[0] * GIB)


def _room(settings: Plan) -> int | None:
    """Bytes of a device, if known."""
    if settings.device_memory is not None:
        return round(settings.device_memory * GIB)
    device = devices.resolve(settings.device)
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _show(result: dict[str, Any], settings: Plan, console: Console) -> None:
    console.say(
        f"{settings.method} on {settings.backbone}: {result['parameters']:,} parameters, {result['trained_parameters']:,} trained\n"
        f"{result['examples']:,} examples, {result['targets']:,} targets: {result['steps']:,} steps at most "
        f"({result['steps_per_epoch']:,} an epoch)\n"
        f"{result['tokens']:,} tokens, {result['padded_tokens']:,} with padding, {result['supervised_tokens']:,} supervised"
        + (" (estimated: there is no tokenizer here)" if result["tokens_are_estimated"] else "")
    )
    spread = "" if settings.devices == 1 else ", sharded" if settings.shard else ", a copy on each"
    console.say(f"\nMemory of a device at the worst moment of an update, {settings.devices} device(s){spread}:")
    rows = [[kind, f"{size / GIB:.2f} GiB"] for kind, size in result["memory"].items()]
    rows += [["all tensors", f"{result['memory_total'] / GIB:.2f} GiB"]]
    rows += [["with a reserve", f"{result['memory_with_reserve'] / GIB:.2f} GiB"]]
    console.table(["kind", "memory"], rows)
    if others := result["phases_not_planned"]:
        console.say(f"\nThis is the fine-tuning that comes first. Not planned: {', '.join(others)}.")
    if result["fits"] is not None:
        verdict = "It fits" if result["fits"] else "It does NOT fit"
        console.say(f"\n{verdict}: a device has {result['device_memory'] / GIB:.1f} GiB.")


def _advise(task: Task, found: Traffic, room: int, most: int, console: Console) -> dict[str, Any]:
    """The first settings, in the order of what they cost, that fit; or the smallest there are."""
    settings: Any = task.settings
    needed: Estimate | None = None
    tried = settings
    for tried in _plan.smaller(settings, max(shape.positions for shape in found.shapes)):
        other = _plan.plan_of(task, tried)
        if (tried.micro_batch, tried.devices) != (settings.micro_batch, settings.devices):
            opened = _backbones.equipped(_plan.open_shapes(other), tried, task.parents["ids"])
            found = _plan.traffic(_plan.open_examples(other, opened), tried, most)
        needed = _plan.estimate(other, found)
        if with_reserve(needed.total) <= room:
            break
    if needed is None:
        console.say("No setting takes less: use a smaller backbone, or more devices.")
        return {"flags": "", "fits": False}
    flags, fits = _plan.as_flags(tried, settings), with_reserve(needed.total) <= room
    size = f"{with_reserve(needed.total) / GIB:.1f} GiB with the reserve"
    if fits:
        console.say(f"This fits ({size}): add {flags}")
    else:
        more = "" if tried.shard else ", or --devices 8 --shard"
        console.say(f"Even {flags} needs {size}: use a smaller backbone{more}")
    return {"flags": flags, "fits": fits, "memory": _plan.described(needed.memory), "memory_total": needed.total,
            "memory_with_reserve": with_reserve(needed.total)}  # fmt: skip
