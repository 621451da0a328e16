"""What a report is made of: every evaluation on these data, by protocol, with the run it judges."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.json_log import read_log
from ilrec_cli.settings import Report
from ilrec_cli.stages import _evaluation, _inputs, _protocol, _templates


@dataclass(frozen=True)
class Row:
    """One evaluated model."""

    name: str
    label: str  # the name, with kind and search where the name alone does not tell the rows of a protocol apart
    kind: str  # the method or the collaborative model
    search: str
    result: dict[str, Any]  # metrics.json
    train: Path
    evaluation: Path  # its folder; of a mean over prompts its file
    manifest: dict[str, Any]  # of the model

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.result["metrics"])

    @property
    def intervals(self) -> dict[str, list[float]]:
        """Of every metric, [low, high]; a mean over prompts has none."""
        return dict(self.result.get("intervals", {}))

    @property
    def slices(self) -> dict[str, dict[str, Any]]:
        return dict(self.result.get("slices", {}))

    @property
    def is_ranked(self) -> bool:
        """Whether there is a list for every event; a mean over prompts has none."""
        return (self.evaluation / "rankings.parquet").is_file()

    @property
    def is_lm(self) -> bool:
        return bool(self.manifest["kind"] == "run")

    @property
    def seed(self) -> int:
        return int(self.manifest["seed"])

    @property
    def log(self) -> list[dict[str, Any]]:
        return read_log(self.train / "log.jsonl")


Groups = dict[str, list[Row]]


def collect(config: Report, data_digest: str, console: Console) -> Groups:
    """Rows by protocol (search aside), test splits first, collaborative models first; evaluations of other data
    versions stay out."""
    groups: Groups = {}
    outdated = 0
    for kind, models in _inputs.models(config).items():
        for name, train in models.items():
            manifest = artifacts.read_manifest(train)
            found = dict(_templates.kept(train, {"run": manifest["digest"], "data": data_digest}))
            for folder in sorted((train.parent / "eval").glob("[!.]*")):
                if not artifacts.exists(folder):
                    continue
                done = artifacts.read(folder, "eval")
                if not done.manifest["parents"].items() >= {"run": manifest["digest"], "data": data_digest}.items():
                    continue
                result = done.json("metrics.json")
                if result.get("version") != _evaluation.VERSION:
                    outdated += 1
                    continue
                if result["protocol"].get("template"):  # one of many prompts: their mean is a row
                    continue
                found[folder] = result
            made_by = manifest["config"][_inputs.MADE_BY[kind]]
            for place, result in found.items():
                row = Row(name, name, made_by, _protocol.words(result["protocol"]), result, train, place, manifest)
                groups.setdefault(_title(result), []).append(row)
    if outdated:
        console.warn(
            f"{outdated} evaluations are of an older ilrec; they are left out. Run: ilrec evaluate {_inputs.flags(config)}"
        )
    for title, rows in groups.items():
        rows.sort(key=lambda row: (row.is_lm, row.metrics.get("ndcg@10", 0.0)))
        groups[title] = [_labelled(row, rows) for row in rows]
    return dict(sorted(groups.items(), key=lambda group: ("valid" in group[0], group[0])))


def _labelled(row: Row, rows: list[Row]) -> Row:
    """The name, with the search, and the kind, where that is what tells rows of one name apart."""
    alike = [other for other in rows if other.name == row.name]
    told = [row.kind] if len({other.kind for other in alike}) > 1 else []
    told += [row.search] if len({other.search for other in alike}) > 1 else []
    return replace(row, label=f"{row.name} ({', '.join(told)})" if told else row.name)


def trained(groups: Groups) -> dict[str, Row]:
    """Every model once, by name, language models last."""
    rows = [row for each in groups.values() for row in each]
    return {row.name: row for row in sorted(rows, key=lambda row: row.is_lm)}


def cost(row: Row) -> dict[str, Any]:
    """What the training took, the runs it starts from included: cost.json where there is one, else what its log says."""
    file = row.train / "cost.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        return {**found["total"], "phases": len(found["before"]) + len(found["phases"])}
    last = row.log[-1] if row.log else {}
    return {
        key: last[source]
        for key, source in (("seconds", "seconds"), ("steps", "step"), ("epochs", "epoch"))
        if source in last
    }


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
