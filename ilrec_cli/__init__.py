"""ilrec: LLM-based sequential recommendation, from raw logs to full-ranking metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ilrec_cli.stages._recommender import Recommender

__version__ = "0.1.0"
__all__ = ["Recommender", "__version__"]


def __getattr__(name: str) -> Any:
    """`from ilrec_cli import Recommender`, without torch until then."""
    if name != "Recommender":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ilrec_cli.stages._recommender import Recommender

    return Recommender
