"""Commands that stand for the real ones, for tests of `reproduce`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.settings import Reproduce
from ilrec_cli.stages import _grid

KINDS = {"preprocess": "data", "build-ids": "ids", "train-cf": "cf", "train": "run"}


class Shop:
    """Stands for the commands: writes what they would write, remembers what it was asked, fails where it is told to."""

    def __init__(self, titles: bool = True) -> None:
        self.asked: list[list[str]] = []
        self.broken = ""
        self.error: type[BaseException] = RuntimeError
        self.titles = titles
        self.version = 0

    def __call__(self, arguments: Sequence[str]) -> dict[str, Any]:
        argv = list(arguments)
        self.asked.append(argv)
        if self.broken and re.search(self.broken, " ".join(argv)):
            raise self.error("out of memory")
        flags = dict(zip(argv[1::2], argv[2::2], strict=False))
        home = Path(flags["--work"]) / flags["--dataset"]
        if argv[0] == "evaluate":
            return _evaluated(flags["--run"])
        place = {"preprocess": "data", "build-ids": f"ids/{flags.get('--name')}", "train-cf": f"cf/{flags.get('--name')}/train",
                 "train": f"runs/{flags.get('--name')}/train"}[argv[0]]  # fmt: skip
        parents = {} if argv[0] == "preprocess" else {"data": artifacts.read(home / "data", "data")}
        if "--from" in flags:
            parents["from"] = artifacts.read(home / "runs" / flags["--from"] / "train", "run")
        self._write(home / place, argv[0], argv, parents)
        return {}

    def _write(self, path: Path, command: str, argv: list[str], parents: dict[str, Artifact]) -> None:
        with artifacts.create(path, kind=KINDS[command], config={}, seed=0, parents=parents) as aside:
            artifacts.write_json(aside / "said.json", {"argv": argv, "version": self.version})
            if command == "preprocess":
                text = ["A" if self.titles else ""]
                rows = {name: ["x"] for name in ("raw_id", "source_id", "description", "brand")}
                artifacts.write_table(aside, "items", {"item": [0], "title": text, "categories": [[]], **rows})
            if command == "train":
                total = {"seconds": 7200.0, "epochs": 5, "generated": 30}
                artifacts.write_json(
                    aside / "cost.json",
                    {"before": [], "phases": [{"making_seconds": 1.0, "generated": 0}], "total": total},
                )
                lines = [{"step": step, "ce_layer_1": 3.0 / step, "ce_layer_2": 2.0 / step} for step in (1, 2)]
                artifacts.write_text(aside / "log.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def _evaluated(name: str) -> dict[str, Any]:
    """Figures that differ from run to run."""
    value = round(int.from_bytes(name.encode()[-16:]) % 9973 / 1e5, 6)
    metrics = {f"{kind}@{k}": value + k / 1e3 for kind in ("hit", "ndcg") for k in (1, 5, 10)}
    rules = {"split": "test", "candidates": "full catalogue", "seen_items": "ranked", "search": "beams", "beams": 20,
             "normalize": "vocab", "dtype": "float32"}  # fmt: skip
    around = {metric: [each - 0.01, each + 0.01] for metric, each in metrics.items()}
    return {"events": 9, "metrics": {name: metrics}, "protocol": {name: rules}, "intervals": {name: around}}


def settings(work: Path, *tables: str, **more: Any) -> Reproduce:
    return Reproduce(tables=tables, work=work, quiet=True, **more)


def grid(name: str, config: Reproduce) -> _grid.Table:
    return _grid.filled(_grid.declared(name, config), config)


def commands(shop: Shop, which: str) -> list[list[str]]:
    return [argv for argv in shop.asked if argv[0] == which]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
