"""The one exception that stands for a mistake of the user: one clear line, exit code 2; and what the system refuses.

Everything else is a bug.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable

WRITE_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS}
ACCESS_ERRORS = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR}

SHOWN = 80  # characters of a value in a message
DIGITS = 40  # of a number in a message


class UserError(ValueError):
    """Says what, where, got, expected, next step. The command line prints it without a traceback."""


def abridged(text: str) -> str:
    """As much of a value as a message shows."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def one_line(message: str) -> str:
    """A message on one line and without endless numbers, whatever a file, a flag or a request put into it."""
    cut = re.sub(rf"\d[\d,]{{{DIGITS},}}", lambda number: f"{number[0][:9]}... ({len(number[0])} digits)", message)
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in cut)


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for a near miss, else ''."""
    match = difflib.get_close_matches(word.replace("-", "_"), list(known), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""


def outside_reason(error: Exception) -> str | None:
    """One line if the system refused something (a full disk, no permission, no memory of a GPU), else None: a bug."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's; not imported here
        return (
            "the device's memory does not suffice. Smaller passes make the same update: --micro-batch, --loss-chunk, "
            "--gradient-checkpointing; ilrec plan says what fits. What was saved goes on with --resume"
        )
    # Some writers report the system's refusal as an exception of their own, with its number in the text.
    written = WRITE_ERRORS if isinstance(error, OSError) or type(error).__name__ == "SafetensorError" else set()
    number = getattr(error, "errno", None)
    if number in written or any(f"os error {each})" in str(error) for each in written):
        where = getattr(error, "filename", None) or "a file"
        reason = os.strerror(number) if number else str(error)
        return (
            f"cannot write {where}: {reason}. Nothing half-written was kept. Free space and run it again (a "
            "training with --resume), or choose another --work"
        )
    if isinstance(error, OSError) and number in ACCESS_ERRORS:
        return f"cannot open {error.filename or 'a file'}: {error.strerror}"
    return None
