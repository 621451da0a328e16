"""The one exception that stands for a mistake of the user: one clear line, exit code 2. Everything else is a bug."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Says what, where, got, expected, next step. The command line prints it without a traceback."""


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for a near miss, else ''."""
    match = difflib.get_close_matches(word.replace("-", "_"), list(known), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
