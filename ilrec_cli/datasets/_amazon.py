"""What the editions of the Amazon reviews share: options, and how their files are told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ilrec_cli.datasets import _files

# As LC-Rec prepares these data (arXiv 2311.09049): the first of repeated purchases, iterative 5-core.
DEFAULTS = {"user_k": 5, "item_k": 5, "repeats": "first"}
LCREC = (".inter.json", ".item.json", ".index.json", ".user.json")  # LC-Rec's files, which are none of Amazon's


@dataclass(frozen=True, kw_only=True)
class Config:
    reviews: Annotated[Path | None, "the review (or ratings) file, where the folder holds several"] = None
    metadata: Annotated[Path | None, "the metadata file, where the folder holds several"] = None


def review_files(
    folder: Path, suffix: str, is_review: Callable[[dict[str, Any]], bool], prefix: str = ""
) -> list[Path]:
    """Files whose first line is a review; where it cannot be read as JSON, those that are named like it."""
    return [path for path in _candidates(folder, suffix) if _is(path, is_review, path.name.startswith(prefix))]


def metadata_files(folder: Path, suffix: str, reviews: list[Path]) -> list[Path]:
    """Files named like metadata."""
    return [path for path in _candidates(folder, suffix) if path.name.startswith("meta_") and path not in reviews]


def _candidates(folder: Path, suffix: str) -> list[Path]:
    return [path for path in _files.files(folder, suffix) if not any(part in path.name.lower() for part in LCREC)]


def _is(path: Path, is_review: Callable[[dict[str, Any]], bool], named_so: bool) -> bool:
    first = _files.first_object(path)
    if first is not None:
        return is_review(first)
    return named_so and not path.name.startswith("meta_") and not _files.first_line(path).startswith("[")
