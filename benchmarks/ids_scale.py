"""Identifiers for a catalogue of up to a million synthetic items: residual k-means, settling, and the trie.

    python benchmarks/ids_scale.py [--sizes 10000,100000,1000000]

3 levels of 1,024 codes over 64-dimensional vectors (5,000 clusters of different sizes, 1 % of the items without a vector of their
own). One JSON per size; a size whose file is there is skipped. Every measured part is a process of its own, so that
its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, peak_gib, write

DIMENSIONS, CLUSTERS, LEVELS, CODES = 64, 5000, 3, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--run", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps({**PARTS[arguments.run](arguments.folder), "peak_gib": peak_gib()}))
        return
    for size in map(int, arguments.sizes.split(",")):
        name = f"ids-scale-{size}"
        if not (RESULTS / f"{name}.json").exists():
            with tempfile.TemporaryDirectory() as folder:
                np.save(Path(folder) / "vectors.npy", vectors(size))
                print(write(name, {"items": size, **{part: measured(part, folder) for part in PARTS}}), flush=True)


def vectors(items: int) -> np.ndarray:
    """Unit rows around cluster centres; sizes of clusters fall off as in a shop; 1 % have one and the same vector."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, CLUSTERS + 1)
    cluster = rng.choice(CLUSTERS, size=items, p=share / share.sum())
    found = rng.normal(size=(CLUSTERS, DIMENSIONS)).astype(np.float32)[cluster]
    found += 0.5 * rng.normal(size=found.shape).astype(np.float32)
    found[rng.permutation(items)[: items // 100]] = found[0]
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def measured(part: str, folder: str) -> dict[str, Any]:
    """What one part says, run in a process of its own."""
    command = [sys.executable, __file__, "--run", part, "--folder", folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(part, done.stdout.splitlines()[-1], flush=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def identifiers(folder: Path) -> dict[str, Any]:
    """Codebooks and codes, then paths without collisions; the paths are kept for the trie."""
    from ilrec_cli.ids import _settle, rqkmeans
    from ilrec_cli.ids._quantise import Job
    from ilrec_cli.ids.rqkmeans.quantise import fit

    config = rqkmeans.Config(levels=LEVELS, codes=CODES)
    vectors_ID = np.load(folder / "vectors.npy")
    started = time.perf_counter()
    found = fit(vectors_ID, config, np.random.default_rng(0), Job())
    fitted = time.perf_counter()
    assignment = _settle.quantised(found, "resolve", np.arange(len(vectors_ID)))
    settled = time.perf_counter()
    np.savez(
        folder / "paths.npz", codes=assignment.codes.flatten().to_numpy(), offsets=assignment.codes.offsets.to_numpy()
    )
    return {"fit_seconds": fitted - started, "settle_seconds": settled - fitted, **assignment.notes}


def trie(folder: Path) -> dict[str, Any]:
    """The trie over those paths, with an end token each."""
    from ilrec_cli.trie import ItemTrie

    paths = np.load(folder / "paths.npz")
    lengths = np.diff(paths["offsets"])
    level = np.arange(len(paths["codes"])) - np.repeat(paths["offsets"][:-1], lengths)
    flat = np.insert(paths["codes"] + level * CODES + 1, paths["offsets"][1:], 0)
    offsets = paths["offsets"] + np.arange(len(paths["offsets"]))
    started = time.perf_counter()
    built = ItemTrie.build(flat, offsets)
    return {"seconds": time.perf_counter() - started, "nodes": len(built), "longest": built.max_depth}


PARTS = {"identifiers": identifiers, "trie": trie}


if __name__ == "__main__":
    main()
