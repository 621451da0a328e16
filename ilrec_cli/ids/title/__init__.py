"""An item's title is its identifier, in the language model's own tokens: no special tokens, no codes.

Source: BIGRec, arXiv 2308.08434, writes items so. Items of one title share its path, and are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

QUANTISES = False
PRESETS: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    missing: Annotated[
        Literal["fail", "raw_id"], "an item without a title ends the work, or is written as its original id"
    ] = "fail"
    full_stop: Annotated[
        Literal["auto", "keep"],
        "auto: where every title ends with a full stop, LC-Rec's files have added it: it is left out",
    ] = "auto"
