"""Everything that was evaluated on a dataset -> a table here, a page, and the same as Markdown, LaTeX, CSV and figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import Report
from ilrec_cli.stages import _html, _inputs, _page, _report_rows, _report_write
from ilrec_cli.stages._report_rows import Groups, Row
from ilrec_cli.stages._report_tables import PAIRED, reported

Command = Callable[[Sequence[str]], dict[str, Any]]
SHARE = 4  # --watch rests this many times as long as it worked: the training has use for the processor
WATCHED = (
    "*/*/eval/*/metrics.json",
    "*/*/eval/*.json",
    "*/*/train/log.jsonl",
    "*/*/train/manifest.json",
    "ids/*/manifest.json",
)


def run(config: Report, command: Command) -> dict[str, Any]:
    """Print a table per protocol and write the files; with --watch again whenever something changed."""
    console = Console.of(config)
    target = _target(config)
    if config.watch:
        return _watch(config, command, target, console)
    groups = _collected(config, console)
    if not groups:
        raise UserError(
            f"nothing is evaluated in {_inputs.dataset_dir(config)}. Run: ilrec evaluate {_inputs.flags(config)}"
        )
    for title, rows in reversed(groups.items()):  # the test split last, where the eye is
        console.say(f"{config.dataset}: {title}")
        shown = reported(rows)
        console.table(
            ["run", "search", *shown],
            [[row.name, row.search, *(row.metrics.get(name) for name in shown)] for row in rows],
        )
        console.say()
    written = _written(config, groups, command, target, console)
    console.say(f"Report: {written[0]}" + (f"\nBeside it: {', '.join(map(str, written[1:]))}" if written[1:] else ""))
    metrics = {title: {row.label: row.metrics for row in rows} for title, rows in groups.items()}
    return {"path": str(written[0]), "files": list(map(str, written)), "metrics": metrics}


def _target(config: Report) -> Path:
    target = config.output or _inputs.dataset_dir(config) / "report.html"
    if target.is_dir():
        raise UserError(f"--output {target} is a folder; name a file in it, such as {target / 'report.html'}")
    return target


def _collected(config: Report, console: Console) -> Groups:
    return _report_rows.collect(config, _inputs.read_data(config).digest, console)


def _written(config: Report, groups: Groups, command: Command, target: Path, console: Console) -> list[Path]:
    """The files, the page first."""

    def compare(base: Row, others: Sequence[Row]) -> list[dict[str, Any]]:
        sides = [f"{row.train.parent}:{row.evaluation.name}" for row in (base, *others)]
        versions = tuple(artifacts.read_manifest(row.evaluation)["digest"] for row in (base, *others))
        return _compared(command, tuple(sides), versions, config.dataset, config.work)

    if config.base is not None and not any(row.name == config.base for rows in groups.values() for row in rows):
        known = dict.fromkeys(row.name for rows in groups.values() for row in rows)
        raise UserError(f"--base {config.base}: no evaluated run of that name. There are: {', '.join(known)}")
    figures = _html.can_draw(console)
    content = _page.Maker(config, _inputs.read_data(config), groups, compare, figures=figures).content()
    return _report_write.write(content, groups, target, config)


@lru_cache(maxsize=64)
def _compared(
    command: Command, sides: tuple[str, ...], versions: tuple[str, ...], dataset: str, work: Path
) -> list[dict[str, Any]]:
    """What `ilrec compare` says; kept for --watch while the evaluations (`versions`) are the same."""
    flags = ["--dataset", dataset, "--work", str(work), "--metrics", ",".join(PAIRED), "--quiet"]
    return list(command(["compare", *sides, *flags])["comparisons"])


def _watch(config: Report, command: Command, target: Path, console: Console) -> dict[str, Any]:
    """Write again whenever a file that the report stands on changed; a line each time."""
    started, seen, refreshed, took = time.monotonic(), None, 0, 0.0
    console.say(f"Watching {_inputs.dataset_dir(config)}; Ctrl-C ends")
    while True:
        now = _stamps(_inputs.dataset_dir(config))
        if now != seen:
            seen, refreshed, began = now, refreshed + 1, time.monotonic()
            console.say(
                f"{time.strftime('%H:%M:%S')}  {_refreshed(config, command, target, console, first=refreshed == 1)}"
            )
            took = time.monotonic() - began
        if config.stop_after is not None and time.monotonic() - started >= config.stop_after:
            return {"path": str(target), "refreshed": refreshed}
        time.sleep(max(config.every, SHARE * took))


def _refreshed(config: Report, command: Command, target: Path, console: Console, *, first: bool) -> str:
    """What was written; after the first time also why nothing was: a folder may be half replaced just now."""
    try:
        groups = _collected(config, console)
        written = _written(config, groups, command, target, console)
    except UserError as error:
        if first:
            raise
        return f"not now: {error}"
    models = len({row.name for rows in groups.values() for row in rows})
    return f"{models} evaluated models  {written[0]}"


def _stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Path -> (time, size) of what a report is made from."""
    found = {}
    for pattern in WATCHED:
        for path in root.glob(pattern):
            try:
                stat = path.stat()
            except OSError:  # gone between the listing and the look
                continue
            found[str(path)] = (stat.st_mtime_ns, stat.st_size)
    return found
