"""RecBole's atomic files: `.inter` and `.item`, or the fixed split `.train.inter`, `.valid.inter`, `.test.inter`.

Source: W. X. Zhao et al., "RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation
Algorithms", CIKM 2021; the format is described at recbole.io/docs/user_guide/data/atomic_files.html. Tab-separated, the
header gives every field's name and type (`user_id:token`). Files of a fixed split may give a row's history
(`item_id_list:token_seq`); the sequences are put together from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.datasets import _files

# Atomic files are usually filtered already, and RecBole itself filters nothing unless told to.
DEFAULTS = {"user_k": 0, "item_k": 0, "repeats": "keep"}
EXPECTS = "<Name>.inter and, for item text, <Name>.item; or <Name>.train.inter, <Name>.valid.inter, <Name>.test.inter"
GENERATED = False


@dataclass(frozen=True, kw_only=True)
class Config:
    inter: Annotated[Path | None, "the .inter file, where the folder holds several"] = None
    user_field: Annotated[str, "field of the user's id"] = "user_id"
    item_field: Annotated[str, "field of the item's id"] = "item_id"
    time_field: Annotated[str, "field of the time"] = "timestamp"
    rating_field: Annotated[str, "field of the rating"] = "rating"
    title_field: Annotated[str, "field of the .item file with the title"] = "title"


def detect(folder: Path) -> bool:
    """Whether the folder holds atomic files."""
    return bool(_files.files(folder, ".inter"))
