"""Everything that was evaluated on a dataset -> one table here, one self-contained page in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.json_log import read_log
from ilrec_cli.metrics import REPORTED
from ilrec_cli.settings import Report
from ilrec_cli.stages import _evaluation, _inputs, _page, _protocol


@dataclass(frozen=True)
class Row:
    """One evaluated model."""

    name: str
    kind: str  # the method or the collaborative model
    search: str
    metrics: dict[str, float]
    log: list[dict[str, Any]]
    is_lm: bool


def run(config: Report) -> dict[str, Any]:
    """Print a table per protocol and write the page."""
    console = Console.of(config)
    data = _inputs.read_data(config)
    groups = _collect(config, data.digest, console)
    if not groups:
        raise UserError(
            f"nothing is evaluated in {_inputs.dataset_dir(config)}. Run: ilrec evaluate {_inputs.flags(config)}"
        )
    for title, rows in reversed(groups.items()):  # the test split last, where the eye is
        console.say(f"{config.dataset}: {title}")
        console.table(
            ["run", "search", *REPORTED],
            [[row.name, row.search, *(row.metrics.get(name) for name in REPORTED)] for row in rows],
        )
        console.say()
    target = config.output or _inputs.dataset_dir(config) / "report.html"
    if target.is_dir():
        raise UserError(f"--output {target} is a folder; name a file in it, such as {target / 'report.html'}")
    page = _page.render(config.dataset, data.json("card.json"), groups, console)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target}: the folder cannot be made ({error.strerror}). Choose another --output") from error
    artifacts.write_text(target, page)
    console.say(f"Report: {target}")
    metrics = {title: {_label(row, rows): row.metrics for row in rows} for title, rows in groups.items()}
    return {"path": str(target), "metrics": metrics}


def _label(row: Row, rows: list[Row]) -> str:
    """The run's name, with its kind and search where the name alone does not tell the rows apart."""
    alone = sum(other.name == row.name for other in rows) == 1
    return row.name if alone else f"{row.name} ({row.kind}, {row.search})"


def _collect(config: Report, data_digest: str, console: Console) -> dict[str, list[Row]]:
    """Rows by protocol (search aside), collaborative models first; evaluations of other data versions stay out."""
    groups: dict[str, list[Row]] = {}
    outdated = 0
    for kind, models in _inputs.models(config).items():
        for name, train in models.items():
            for folder in sorted((train.parent / "eval").glob("[!.]*")):
                if not artifacts.exists(folder):
                    continue
                done = artifacts.read(folder, "eval")
                model = artifacts.read_manifest(train)
                if done.manifest["parents"].items() >= {"run": model["digest"], "data": data_digest}.items():
                    result = done.json("metrics.json")
                    if result.get("version") != _evaluation.VERSION:
                        outdated += 1
                        continue
                    if result["protocol"].get("template"):  # one of many prompts: evaluate tells their mean
                        continue
                    row = _row(name, kind, model["config"], result, train)
                    groups.setdefault(_title(result), []).append(row)
    if outdated:
        console.warn(
            f"{outdated} evaluations are of an older ilrec; they are left out. Run: ilrec evaluate {_inputs.flags(config)}"
        )
    for rows in groups.values():
        rows.sort(key=lambda row: (row.is_lm, row.metrics.get("ndcg@10", 0.0)))
    return dict(sorted(groups.items(), key=lambda group: ("valid" in group[0], group[0])))


def _row(name: str, kind: str, config: dict[str, Any], result: dict[str, Any], train: Path) -> Row:
    log = read_log(train / "log.jsonl")
    return Row(
        name, config[_inputs.MADE_BY[kind]], _protocol.words(result["protocol"]), result["metrics"], log, kind == "run"
    )


def _title(result: dict[str, Any]) -> str:
    """The protocol in words, but for how a model's list is found, which is a column of the table."""
    rules = result["protocol"]
    users = ""
    if "limit_users" in rules:
        users = f", {rules['limit_users']:,} users drawn by seed {rules['users_drawn_by_seed']}"
    return (
        f"{rules['split']} split, {result['events']:,} events{users}, {rules['candidates']}, "
        f"seen items {rules['seen_items']}"
    )
