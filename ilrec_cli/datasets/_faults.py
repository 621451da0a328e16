"""What becomes of lines that cannot be read: the first one ends the work, or they are skipped, counted and kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ilrec_cli.errors import UserError

LONGEST_SHOWN = 500  # of a rejected line


@dataclass
class Faults:
    """Collects rejected lines. With `skip` off, the first one is a `UserError`; with it, one more than `most` is."""

    skip: bool = False
    most: int | None = None
    advice: str = "Mend or delete the line, or leave such lines out: --on-error skip"
    rejected: list[dict[str, str | int]] = field(default_factory=list)

    def summary(self) -> str:
        """How many lines were rejected and where the first is, to end a message with; '' for none."""
        if not self.rejected:
            return ""
        first, count = self.rejected[0], len(self.rejected)
        return (
            f" that can be read: {count:,} {'line was' if count == 1 else 'lines were'} rejected, the first "
            f"{first['file']}:{first['line']}: {first['reason']}"
        )

    def report(self, path: Path, line: int, reason: str, text: str = "") -> None:
        """A line (from 1) that cannot be used, and why."""
        if not self.skip:
            raise UserError(f"{path}:{line}: {reason}. {self.advice}")
        self.rejected.append({"file": path.name, "line": line, "reason": reason, "text": text[:LONGEST_SHOWN]})
        if self.most is not None and len(self.rejected) > self.most:
            raise UserError(
                f"{path}:{line}: {reason}; that is bad line {len(self.rejected)}, more than --max-errors {self.most}"
            )
