"""Sequences in LC-Rec's layout: `<Name>.inter.json` (user -> items in time order), `<Name>.item.json` (item -> text).

Source: B. Zheng et al., "Adapting Large Language Models by Integrating Collaborative Semantics for
Recommendation" (LC-Rec), ICDE 2024, arXiv 2311.09049. `<Name>.user2id` and `<Name>.item2id` (raw id, tab, number)
give the original ids where present; `<Name>.user.json` has what users like and ask for, in words. The data are processed already, so nothing is filtered by default; times are
lost, `timestamp` is the place in the user's sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

DEFAULTS = {"user_k": 0, "item_k": 0, "repeats": "keep"}
EXPECTS = "<Name>.inter.json and, for item text, <Name>.item.json"
GENERATED = False


@dataclass(frozen=True, kw_only=True)
class Config:
    inter: Annotated[Path | None, "the .inter.json file, where the folder holds several"] = None


def detect(folder: Path) -> bool:
    """Whether the folder holds sequences."""
    return bool(sequence_files(folder))


def sequence_files(folder: Path) -> list[Path]:
    return _files.files(folder, ".inter.json")
