"""quality.json of identifiers as a table: a row per figure, a column for each of the identifiers."""

from __future__ import annotations

from typing import Any

from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.ids import _quality

Figures = dict[str, Any]
STEPS = ("moved_within_prefix", "moved_elsewhere", "with_suffix")
KINDS = {"brand": "same brand", "category": "same category", "neighbours": "near neighbours inside"}


def figures(ids: Artifact) -> Figures:
    """What was measured of identifiers, with the scheme and the vectors they were made from."""
    figures = ids.json("quality.json")
    if figures.get("version") != _quality.VERSION:
        raise UserError(
            f"{ids.path}/quality.json: version {figures.get('version')}, this ilrec reads {_quality.VERSION}. Re-run: "
            "ilrec build-ids"
        )
    return {"scheme": ids.config["scheme"], "vectors": _vectors(ids), **figures}


def table(found: dict[str, Figures]) -> list[tuple[str, list[str]]]:
    """(what, a cell for each of the identifiers), for people; rows that nobody has are left out."""
    columns = [_cells(figures) for figures in found.values()]
    purity = {(row["of"], row["depth"]): _purity_label(row) for figures in found.values() for row in figures["purity"]}
    labels = [
        *(label for label in columns[0] if label not in purity.values()),
        *(purity[key] for key in sorted(purity)),
    ]
    rows = [(label, [cells.get(label) for cells in columns]) for label in labels]
    return [(label, [cell or "-" for cell in cells]) for label, cells in rows if any(cells)]


def _vectors(ids: Artifact) -> str:
    """Where the vectors came from."""
    config = ids.config
    text = config.get("vectors") or config.get("encoder") or "-"
    return f"{text}, {config['cf']}" if "cf" in config else str(text)


def _cells(figures: Figures) -> dict[str, str | None]:
    """What the table says of one: label -> text, None where it has no such figure."""
    collisions, targets = figures["collisions"], figures["ambiguous_targets"]["test"]
    levels, branching = figures["levels"], figures["branching"]
    error = figures.get("reconstruction", {}).get("relative")
    added = collisions["error_after"] / collisions["error_before"] - 1 if collisions.get("error_before") else None
    cells = {
        "scheme": figures["scheme"],
        "vectors": figures["vectors"],
        "items": f"{figures['items']:,}",
        "distinct vectors": _count(figures.get("distinct_vectors")),
        "distinct paths": f"{figures['distinct_paths']:,}",
        "items that collide": f"{figures['colliding_items']:,}",
        "  before they were settled": f"{collisions['colliding_items_before']:,}",
        "  settled by": collisions["rule"],
        **{f"  {name.replace('_', ' ')}": _count(collisions.get(name)) for name in STEPS},
        "  error added": None if added is None else f"{100 * added:+.1f} %",
        "largest group": f"{figures['largest_group']:,}",
        "ambiguous test targets": f"{targets['ambiguous']:,} of {targets['events']:,}",
        "codes used per level": " / ".join(f"{level['used']:,}" for level in levels),
        "  of those there are": _percent(*(level["usage"] for level in levels)),
        "  entropy, of the largest": _percent(*(level["entropy"] for level in levels)),
        "prefixes per depth": " / ".join(f"{count:,}" for count in figures["prefixes_per_depth"]),
        "  children, mean": " / ".join(f"{depth['mean_children']:.1f}" for depth in branching),
        "  children, most": " / ".join(f"{depth['most_children']:,}" for depth in branching),
        "error, share of the variance": None if error is None else _percent(error),
    }
    for row in figures["purity"]:
        chance = f"{100 * row['low']:.1f} to {_percent(row['high'])}"
        cells[_purity_label(row)] = f"{_percent(row['share'])} (chance {chance})"
    return cells


def _purity_label(row: dict[str, Any]) -> str:
    return f"{KINDS[row['of']]}, depth {row['depth']}"


def _count(value: int | None) -> str | None:
    return f"{value:,}" if value else None


def _percent(*shares: float | None) -> str | None:
    """'99.5 / 98.0 %'; a share that is not known is a dash, and nothing is said where none is."""
    parts = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
    return f"{' / '.join(parts)} %" if set(parts) != {"-"} else None
