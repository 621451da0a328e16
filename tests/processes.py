"""Code in two processes on one machine, with the variables that `accelerate launch` sets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

LIMIT = 900  # seconds, to end a hang: a busy machine takes many times what a quiet one does


def in_two(code: str, *arguments: str) -> list[str]:
    """Standard output of both, in the order of their ranks; none outlives a failure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
              "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    launched = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    try:
        out = [process.communicate(timeout=LIMIT)[0] for process in launched]
    finally:
        for process in launched:
            process.kill()
    assert [process.returncode for process in launched] == [0, 0]
    return out
