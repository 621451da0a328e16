"""Identifiers judged, several side by side: their quality.json as a table here and a page in a file."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.ids import _quality
from ilrec_cli.settings import ReportIds
from ilrec_cli.stages import _ids_page, _inputs

Figures = dict[str, Any]
STEPS = ("moved_within_prefix", "moved_elsewhere", "with_suffix")
KINDS = {"brand": "same brand", "category": "same category", "neighbours": "near neighbours inside"}


def run(config: ReportIds) -> dict[str, Any]:
    """Print the table and write the page."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    chosen = _chosen(config, data)
    names = Counter(ids.name for ids in chosen)
    found = {ids.name if names[ids.name] == 1 else str(ids.path): _figures(ids) for ids in chosen}
    rows = table(found)
    console.table([config.dataset, *found], [[label, *cells] for label, cells in rows])
    target = config.output or _inputs.dataset_dir(config) / "ids-report.html"
    with _inputs.output_file(target, overwrite=True):
        artifacts.write_text(target, _ids_page.render(config.dataset, found, rows, console))
    console.say(f"\nChance: random assignments with prefixes of the same sizes, 95 % of them.\nReport: {target}")
    return {"path": str(target), "ids": found}


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


def _chosen(config: ReportIds, data: Artifact) -> list[Artifact]:
    """The identifiers that were named, or all of this version of the data."""
    if config.ids:
        named = [_inputs.read_ids(config, data, name) for name in config.ids]
        return list({ids.path.resolve(): ids for ids in named}.values())
    root = _inputs.dataset_dir(config) / "ids"
    every = [artifacts.read(path, "ids") for path in _inputs.finished(root, "ids").values()]
    of_data = [ids for ids in every if ids.manifest["parents"]["data"] == data.digest]
    if not of_data:
        raise UserError(f"no item identifiers of these data in {root}. Run: ilrec build-ids {_inputs.flags(config)}")
    return of_data


def _figures(ids: Artifact) -> Figures:
    figures = ids.json("quality.json")
    if figures.get("version") != _quality.VERSION:
        raise UserError(
            f"{ids.path}/quality.json: version {figures.get('version')}, this ilrec reads {_quality.VERSION}. Re-run: "
            "ilrec build-ids"
        )
    return {"scheme": ids.config["scheme"], "vectors": _vectors(ids), **figures}


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
