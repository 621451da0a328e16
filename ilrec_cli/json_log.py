"""JSON for programs, an object a line; and the log of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SEPARATORS = "\x85\u2028\u2029"  # end a line for some readers, though they stand in titles


class JsonLog:
    """Appends lines; on resume, lines after the checkpoint's step are dropped first."""

    def __init__(self, path: Path, from_step: int, *, enabled: bool):
        self.path, self.enabled = path, enabled
        if enabled:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = [row for row in read_log(path) if row["step"] <= from_step] if from_step else []
            aside = path.with_name(f".{path.name}.tmp")  # a kill leaves the log of before, or this one
            aside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            aside.replace(path)

    def write(self, **row: Any) -> None:
        if self.enabled:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def json_line(data: Any) -> str:
    """Readable JSON that every reader takes for a single line."""
    text = json.dumps(data, ensure_ascii=False)
    return "".join(f"\\u{ord(sign):04x}" if sign in SEPARATORS else sign for sign in text)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a log; [] if there is none."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
