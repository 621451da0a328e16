"""Import of an LC-Rec `.index.json` (item -> its tokens), kept as it is unless --collisions says otherwise.

Source of the layout: LC-Rec, arXiv 2311.09049. Keys are the item numbers of the `.inter.json` (`source_id`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

QUANTISES = False
PRESETS: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    index: Annotated[Path | None, "the .index.json file; --index sets it"] = None
