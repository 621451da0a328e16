"""The table of record_reproduce.py: what `ilrec reproduce --scale tiny` took."""

from __future__ import annotations

import json

from _common import RESULTS, markdown
from record_reproduce import TABLES


def tables() -> dict[str, str]:
    """One row per table and figure; none as long as none was made."""
    cells = [json.loads(path.read_text()) for path in RESULTS.glob("reproduce-*.json")]
    done = sorted((cell for cell in cells if cell["done"]), key=lambda cell: TABLES.index(cell["table"]))
    rows = [
        [f"[{cell['table']}](reproduce/{cell['table']}/report.md)", cell["cells"],
         " + ".join(f"{call['seconds'] / 60:.1f}" for call in cell["calls"]) + " min"]
        for cell in done
    ]  # fmt: skip
    return {"reproduced": markdown(["table or figure", "cells", "time"], rows)} if rows else {}
