"""Every stage by its real command on a small synthetic shop, written as raw review files first."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from ilrec_cli import plugins
from ilrec_cli.console import Console
from ilrec_cli.settings import Demo

DATASET = "Hobby_Shop"
# More and smaller steps than the defaults: the shop has a thousandth of a real data set's interactions.
CF = ["--epochs", "40", "--batch-size", "64", "--learning-rate", "2e-3"]
LM = ["--epochs", "12", "--batch-size", "32", "--probe-layers", "all"]


def run(config: Demo, command: Callable[[Sequence[str]], dict[str, Any]]) -> dict[str, Any]:
    """Write the raw files, run the commands, and say what to run on one's own data."""
    console = Console.of(config)
    started = time.perf_counter()
    raw = config.work / "raw"
    source = plugins.load("datasets", "synthetic")
    plugins.part(source, "load").write_raw(raw, DATASET, source.Config(seed=config.seed))
    console.say(f"Wrote raw review files of a made-up shop to {raw}\n")
    results = {}
    for arguments in steps(config):
        console.say(f"$ ilrec {shlex.join(arguments)}")
        how = ["--quiet"] * config.quiet + ["--verbose"] * config.verbose
        results[arguments[0]] = command([*arguments, *how])
        console.say()
    seconds = time.perf_counter() - started
    page = results["report"]["path"]
    console.say(f"Done in {seconds:.0f} s. The report: {page}")
    console.say("Your own data: ilrec preprocess --dataset NAME --raw-dir FOLDER   (formats: ilrec datasets)")
    return {"seconds": seconds, "report": page, "metrics": results["report"]["metrics"]}


def steps(config: Demo) -> list[list[str]]:
    """The commands, in order."""
    common = ["--dataset", DATASET, "--work", str(config.work)]
    seeded = [*common, "--seed", str(config.seed)]
    short = ["--max-steps", str(config.max_steps)] if config.max_steps is not None else []
    few = ["--limit-users", str(config.limit_users)] if config.limit_users is not None else []
    again, inputs = ["--overwrite"], ["--ids", "text", "--cf", "sasrec"]
    return [
        ["preprocess", *seeded, "--raw-dir", str(config.work / "raw")],
        ["build-ids", *seeded, "--name", "text", *again],
        ["train-cf", *seeded, "--model", "sasrec", "--name", "sasrec", *CF, *short, *few, *again],
        ["train", *seeded, *inputs, "--method", "sft", "--name", "sft", *LM, *short, *few, *again],
        ["train", *seeded, *inputs, "--method", "ilrec", "--name", "ilrec", *LM, *short, *few, *again],
        ["evaluate", *seeded, *few, *again],
        ["report", *common],
    ]
