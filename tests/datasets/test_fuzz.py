"""Broken inputs end in a result or in one line, never in a traceback, a hang or a half-written folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from fuzzing import many, one
from raw_files import SOURCES

FILES = {name: make for name, make in SOURCES.items() if name != "synthetic"}
LOG = Path(__file__).parents[2] / "benchmarks" / "results" / "soak-fuzz.json"


@pytest.mark.parametrize("start", range(0, 300, 50))
def test_broken_inputs(start: int) -> None:
    counts = many(range(start, start + 50), FILES)
    assert counts["result"] > 0
    assert counts["error"] > 0


def test_a_fault_in_the_code_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ilrec_cli.splits.leave_one_out", lambda lengths: 1 / 0)
    monkeypatch.setattr("ilrec_cli.splits.given", lambda lengths, label: 1 / 0)
    monkeypatch.setattr("ilrec_cli.splits.by_time", lambda *_: 1 / 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        for seed in range(100):
            one(seed, FILES)


@pytest.mark.soak
def test_ten_thousand_broken_inputs() -> None:
    started = time.perf_counter()
    total = int(os.environ.get("ILREC_FUZZ", "10000"))
    counts = many(range(1_000_000, 1_000_000 + total), FILES)
    LOG.write_text(
        json.dumps({"inputs": total, **counts, "seconds": round(time.perf_counter() - started)}, indent=1) + "\n"
    )
