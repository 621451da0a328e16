"""Kill a run of 60 steps again and again: python kills.py FOLDER KILLS. Prints JSON: kills, and what each one hit.

Children are forked, so that no time goes into imports and kills fall into training. A child tells its parent what it
begins (an update, the writing of a checkpoint); the last word of a killed one says what it was killed in.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from test_loop import SETTINGS, a_job, run

from ilrec_cli import checkpoint
from ilrec_cli.lm.steps import Updater

SIXTY = replace(SETTINGS, epochs=15, save_every=1, patience=99)


def announced(function: Callable[..., Any], before: str, after: str, pipe: int) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        os.write(pipe, f"{before}\n".encode())
        result = function(*arguments, **named)
        os.write(pipe, f"{after}\n".encode())
        return result

    return wrapped


def train(folder: Path, pipe: int) -> None:
    """Begin or resume, in a forked child."""
    begun = any((folder / "checkpoints" / f"{name}.safetensors").exists() for name in ("last", "previous"))
    job = a_job(folder, replace(SIXTY, resume=begun), torch.float32)
    weight = next(job.parallel.model.parameters())
    job = replace(job, validate=lambda: {"ndcg@10": float(weight.detach().abs().sum()) % 1, "hit@10": 0.0})
    Updater.update = announced(Updater.update, "update", "between", pipe)  # type: ignore[method-assign]
    checkpoint.write_tensors = announced(checkpoint.write_tensors, "write", "between", pipe)
    weights, progress = run(job)
    assert progress.step == 60
    save_file(weights, str(folder / "final.safetensors"))


def forked(folder: Path, kill: tuple[str, int, float] | None) -> str | None:
    """What a child was killed in: after the nth time it began something, and a delay. None if it ended by itself."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            train(folder, write)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    last, seen = "start", 0
    with os.fdopen(read) as events:
        for line in events:
            last = line.strip()
            seen += kill is not None and last == kill[0]
            if kill is not None and seen == kill[1]:
                time.sleep(kill[2])
                os.kill(child, signal.SIGKILL)
                break
        last = (events.read().split() or [last])[-1]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return last
    assert os.WEXITSTATUS(status) == 0, "the run failed"
    return None


def main(folder: Path, kills: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    forked(folder / "straight", None)
    wanted = load_file(folder / "straight" / "final.safetensors")
    moments, hit, runs, done = random.Random(0), Counter[str](), 0, 0
    while done < kills or not runs:
        what = moments.choice(["update", "write"])
        delay = moments.uniform(0, 0.02 if what == "update" else 0.004)
        moment = (what, moments.randint(1, 20), delay) if done < kills else None
        struck = forked(folder / f"run{runs}", moment)
        if struck is not None:
            hit[struck] += 1
            done += 1
        else:
            found = load_file(folder / f"run{runs}" / "final.safetensors")
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], value) for name, value in wanted.items()), (
                f"other bits after {done} kills"
            )
            runs += 1
    if (folder / f"run{runs}").exists():  # the last run, cut off by the last kill
        forked(folder / f"run{runs}", None)
        found = load_file(folder / f"run{runs}" / "final.safetensors")
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        runs += 1
    return {
        "steps": 60,
        "kills": done,
        "killed_in": dict(sorted(hit.items())),
        "runs_that_ended_with_the_same_bits": runs,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
