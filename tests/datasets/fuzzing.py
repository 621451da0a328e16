"""Broken inputs by the thousand: files of every source, bent in ways that real files are."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType

from ilrec_cli import cli

SECONDS = 20  # for one input; more is a hang
ODD = [
    "", " ", "\x00", "\ufeff", "null", "NaN", "-1", "1e999", "9" * 400, "-9223372036854775809", "1.5", "true", "[]", "{}",
    "\ud83d\ude00", "e\u0301", "\u202eabc", "\t", "\r", "\\", '"', "'", ",", "::", "<b>", "&amp;", "\x7f", "a" * 5000,
]  # fmt: skip

Mutation = Callable[[random.Random, bytes], bytes]


def random_bytes(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(0, 400))


def flip(rng: random.Random, data: bytes) -> bytes:
    bent = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        if bent:
            bent[rng.randrange(len(bent))] = rng.randrange(256)
    return bytes(bent)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def drop_a_stretch(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(40) :]


def put_something_odd(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(ODD).encode("utf-8", "surrogatepass") + data[place:]


def swap_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines + lines[: rng.randrange(3)])


def replace_a_value(rng: random.Random, data: bytes) -> bytes:
    """One number or quoted text becomes something else."""
    text = data.decode("utf-8", "replace")
    marks = [place for place, letter in enumerate(text) if letter.isdigit() or letter == '"']
    if not marks:
        return data
    start = rng.choice(marks)
    end = start + rng.randrange(1, 12)
    return (
        text[:start]
        + rng.choice([*ODD, json.dumps(rng.choice(ODD)), str(rng.randrange(-(10**20), 10**20))])
        + text[end:]
    ).encode("utf-8", "replace")


def wrong_end(rng: random.Random, data: bytes) -> bytes:
    return data.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b""]))


MUTATIONS: list[Mutation] = [
    random_bytes, flip, cut, drop_a_stretch, put_something_odd, swap_lines, replace_a_value, replace_a_value, wrong_end,
]  # fmt: skip


def bend(rng: random.Random, folder: Path) -> str:
    """Mutate one file of the folder; what was done."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    data = path.read_bytes()
    packed = data[:2] == b"\x1f\x8b"
    if packed and rng.random() < 0.6:
        data = gzip.decompress(data)
    done = []
    for _ in range(rng.randrange(1, 3)):
        mutation = rng.choice(MUTATIONS)
        data = mutation(rng, data)
        done.append(mutation.__name__)
    if packed and rng.random() < 0.5:
        data = gzip.compress(data)
        if rng.random() < 0.3:
            data, done = data[: rng.randrange(len(data))], [*done, "cut gzip"]
    path.write_bytes(data)
    return f"{path.name}: {', '.join(done)}"


class Hang(Exception):
    pass


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang


def one(seed: int, sources: dict[str, Callable[[Path], Path]]) -> str:
    """Preprocess one broken input; "result" or "error". Anything else is an `AssertionError` that says how to repeat it."""
    rng = random.Random(seed)
    name = rng.choice(sorted(sources))
    with tempfile.TemporaryDirectory() as scratch:
        raw = sources[name](Path(scratch) / "raw")
        what = bend(rng, raw)
        arguments = ["preprocess", "--dataset", "Toys", "--work", f"{scratch}/work", "--raw-dir", str(raw), "--user-k", "1",
                     "--item-k", "1", "--json", *rng.choice([[], ["--source", name], ["--on-error", "skip"], ["--split", "time"],
                     ["--on-error", "skip", "--source", name, "--max-errors", "2"], ["--block-mb", "1"], ["--memory-mb", "0"], ["--candidates", "1"]])]  # fmt: skip
        out, err = io.StringIO(), io.StringIO()
        signal.signal(signal.SIGALRM, _alarm)
        signal.alarm(SECONDS)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = cli._guarded(arguments)
        except BaseException as error:
            raise AssertionError(
                f"seed {seed}: {name}, {what}, {arguments[10:]}: {type(error).__name__}: {error}"
            ) from error
        finally:
            signal.alarm(0)
        made = Path(scratch) / "work" / "Toys"
        left = sorted(path.name for path in made.iterdir()) if made.exists() else []
        errors = [line for line in err.getvalue().splitlines() if not line.startswith("warning: ")]
        where = f"seed {seed}: {name}, {what}, {arguments[10:]}: code {code}, {errors}, left {left}"
        if code == 0:
            assert json.loads(out.getvalue().splitlines()[-1])["interactions"] > 0, where
            assert left == ["data"], where
            return "result"
        assert code == 2, where
        assert len(errors) == 1, where
        assert errors[0].startswith("error: "), where
        assert left == [], where
        shutil.rmtree(made, ignore_errors=True)
    return "error"


def many(seeds: range, sources: dict[str, Callable[[Path], Path]]) -> Counter[str]:
    return Counter(one(seed, sources) for seed in seeds)
