"""Identifiers judged, several side by side: their quality.json as a table here and a page in a file."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import ReportIds
from ilrec_cli.stages import _ids_page, _ids_table, _inputs


def run(config: ReportIds) -> dict[str, Any]:
    """Print the table and write the page."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    chosen = _chosen(config, data)
    names = Counter(ids.name for ids in chosen)
    found = {ids.name if names[ids.name] == 1 else str(ids.path): _ids_table.figures(ids) for ids in chosen}
    rows = _ids_table.table(found)
    console.table([config.dataset, *found], [[label, *cells] for label, cells in rows])
    target = config.output or _inputs.dataset_dir(config) / "ids-report.html"
    with _inputs.output_file(target, overwrite=True):
        artifacts.write_text(target, _ids_page.render(config.dataset, found, rows, console))
    console.say(f"\nChance: random assignments with prefixes of the same sizes, 95 % of them.\nReport: {target}")
    return {"path": str(target), "ids": found}


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
