"""The card of an exported model: what it is, how to prompt it, what it scores, what made it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ilrec_cli import artifacts
from ilrec_cli import config as configs
from ilrec_cli.artifacts import Artifact
from ilrec_cli.metrics import REPORTED
from ilrec_cli.provenance import provenance
from ilrec_cli.stages import _html

MADE_WITH = ("ilrec", "torch", "transformers", "peft")


def describe(run: Artifact, data: Artifact, dataset: str, about: dict[str, Any]) -> dict[str, Any]:
    """Everything that is known of the model, for programs."""
    card, layout = data.json("card.json"), run.json("layout.json")
    return {
        **about,
        "run": run.name, "digest": run.digest, "dataset": dataset, "statistics": card["statistics"],
        "max_history": card["max_history"], "config": run.config, "evaluations": _evaluations(run),
        "closed": layout["closed"], "packages": provenance()["packages"],
    }  # fmt: skip


def render(card: dict[str, Any], catalogue: pa.Table) -> str:
    """README.md."""
    evaluations = [
        {"title": _protocol(found["protocol"], found["events"]), "metrics": found["metrics"]}
        for found in card["evaluations"]
    ]
    return _html.page(
        "model_card.md.jinja", card=card, settings=configs.to_yaml(card["config"]).strip(), metrics=REPORTED,
        history=catalogue["item"].to_pylist()[:3], evaluations=evaluations, beams=20,
        versions=", ".join(f"{name} {card['packages'][name]}" for name in MADE_WITH if card["packages"][name]),
    )  # fmt: skip


def _evaluations(run: Artifact) -> list[dict[str, Any]]:
    """Finished evaluations of this very run."""
    found = []
    for folder in sorted((run.path.parent / "eval").glob("[!.]*")):
        if artifacts.exists(folder):
            done = artifacts.read(folder, "eval")
            if done.manifest["parents"].get("run") == run.digest:
                result = done.json("metrics.json")
                found.append({name: result[name] for name in ("protocol", "events", "metrics")})
    return found


def _protocol(rules: dict[str, Any], events: int) -> str:
    return f"{events:,} events; " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rules.items())
