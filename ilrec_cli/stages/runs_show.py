"""A run or collaborative model -> everything that decided it, and what came of it."""

from __future__ import annotations

from typing import Any

from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.metrics import REPORTED
from ilrec_cli.settings import ShowRun
from ilrec_cli.stages import _registry


def run(config: ShowRun) -> dict[str, Any]:
    """Print settings, inputs with their versions, code and environment, training, evaluations, files."""
    console = Console.of(config)
    entry = _registry.find(config, config.runs[0])
    known = _registry.index(entry.root)
    digests = entry.manifest.get("parents", {})
    facts = {
        "name": entry.name, "kind": entry.kind, "path": str(entry.folder), "status": _registry.state(entry),
        "digest": entry.manifest.get("digest"), "settings": entry.settings,
        "parents": {role: {"artifact": name, "version": digests.get(role)} for role, name in
                    _registry.parents(entry, known).items()},
        "provenance": _registry.provenance(entry.train), "training": _registry.training(entry),
        "bytes": _registry.size(entry.folder), "files": entry.manifest.get("files", {}),
        "evaluations": {name: {key: result[key] for key in ("protocol", "events", "users", "metrics", "intervals") if key in result}
                        for name, result in _registry.evaluations(entry)},
    }  # fmt: skip
    _tell(facts, console)
    return facts


def _tell(facts: dict[str, Any], console: Console) -> None:
    """As YAML, the evaluations as a table."""
    shown = {key: value for key, value in facts.items() if key not in ("evaluations", "files") and value}
    shown["files"] = {name: entry["bytes"] for name, entry in facts["files"].items()}
    console.say(configs.to_yaml(shown).rstrip())
    if facts["evaluations"]:
        console.say()
        rows = [[name, result["events"], *(result["metrics"].get(metric) for metric in REPORTED)]
                for name, result in facts["evaluations"].items()]  # fmt: skip
        console.table(["evaluation", "events", *REPORTED], rows)
