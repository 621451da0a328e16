"""Two runs -> by what they differ: inputs, settings, code, environment, training; and whether their metrics do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.settings import DiffRuns
from ilrec_cli.stages import _registry
from ilrec_cli.stages._registry import Entry

CODE = ("source", "commit", "packages.ilrec")  # of provenance.json; the rest is the environment
Sections = dict[str, dict[str, list[Any]]]  # section -> what -> [of the one, of the other]


def run(config: DiffRuns, command: Callable[[Sequence[str]], dict[str, Any]]) -> dict[str, Any]:
    """Print what differs; equal things are left out. Metrics are those of `ilrec compare`."""
    console = Console.of(config)
    one, other = (_registry.find(config, selector) for selector in config.runs)
    sections = _sections(one, other)
    for title, rows in sections.items():
        console.say(f"{title}:" if rows else f"{title}: the same")
        if rows:
            console.table(["", one.name, other.name], [[what, *map(_shown, pair)] for what, pair in rows.items()])
        console.say()
    compared, reason = _compared(config, (one, other), command)
    console.say(
        f"metrics: {reason or 'paired by user, 95 % intervals by bootstrap, p by random signs (ilrec compare)'}"
    )
    if not reason:
        console.table(
            ["metric", one.name, other.name, "difference", "95 % interval", "p"], map(_metric, compared["comparisons"])
        )
    return {"runs": [str(one.folder), str(other.folder)], "differences": sections, "metrics": compared or None,
            "reason": reason or None}  # fmt: skip


def _metric(row: dict[str, Any]) -> list[Any]:
    low, high = row["interval"]
    return [row["metric"], row["base"], row["value"], row["difference"], f"{low:+.4f} to {high:+.4f}", row["p"]]


def _sections(one: Entry, other: Entry) -> Sections:
    found = [_registry.provenance(each.train) for each in (one, other)]
    made = [_flat({key: value for key, value in each.items() if key != "time"}) for each in found]
    code, environment = ([{key: value for key, value in each.items() if (key in CODE) == wanted} for each in made]
                         for wanted in (True, False))  # fmt: skip
    return {
        "data and inputs": _inputs_differ(one, other),
        "settings": _differences(*(_flat(each.settings) for each in (one, other))),
        "code": _differences(*code) | _unknown_code(found),
        "environment": _differences(*environment),
        "training": _differences(*(_registry.training(each) for each in (one, other))),
    }


def _unknown_code(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """One version number can be several codes; artifacts of earlier versions do not say which."""
    known = [each.get("source", "not recorded") for each in found]
    return {"source": known} if "not recorded" in known else {}


def _inputs_differ(one: Entry, other: Entry) -> dict[str, list[Any]]:
    """Which inputs differ, and where both are still there, by which of their own settings and inputs."""
    rows: dict[str, list[Any]] = {}
    sides = [(each, _registry.index(each.root)) for each in (one, other)]
    names = [_registry.parents(entry, known) for entry, known in sides]
    digests = [entry.manifest.get("parents", {}) for entry, _ in sides]
    for role in names[0] | names[1]:
        pair = [each.get(role) for each in digests]
        if pair[0] == pair[1] and None not in pair:
            continue
        rows[role] = [_version(name.get(role), digest) for name, digest in zip(names, pair, strict=True)]
        paths = [known.get(digest or "") for (_, known), digest in zip(sides, pair, strict=True)]
        if None not in paths:
            own = _differences(*(_own(path) for path in paths if path is not None))
            rows |= {f"{role}: {what}": values for what, values in own.items()}
    return rows


def _own(path: Path) -> dict[str, Any]:
    """What decided an input, and what it was made from."""
    manifest = artifacts.read_manifest(path)
    made_from = {f"made from {role}": digest[:8] for role, digest in manifest["parents"].items()}
    return _flat({**manifest["config"], "seed": manifest["seed"]}) | made_from


def _version(name: str | None, digest: str | None) -> str | None:
    if name is None or digest is None or "version" in name:
        return name
    return f"{name} ({digest[:8]})"


def _compared(
    config: DiffRuns, pair: tuple[Entry, Entry], command: Callable[..., dict[str, Any]]
) -> tuple[dict[str, Any], str]:
    """(what `ilrec compare` says, "") or ({}, why it cannot)."""
    unfinished = [entry.name for entry in pair if entry.status != "finished"]
    if unfinished:
        return {}, f"not compared, {', '.join(unfinished)} is not finished"
    names = [entry.name for entry in _registry.entries(config.work, config.dataset)]
    selectors = [entry.name if names.count(entry.name) == 1 else str(entry.folder) for entry in pair]
    try:
        return command(["compare", *selectors, "--dataset", config.dataset, "--work", str(config.work), "--quiet"]), ""
    except UserError as error:
        return {}, f"not compared. {error}"


def _differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    return {key: [one.get(key), other.get(key)] for key in one | other if one.get(key) != other.get(key)}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """{"options.alpha": 0.8} from {"options": {"alpha": 0.8}}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {key: value}
        flat |= inner
    return flat


def _shown(value: Any) -> Any:
    """As it is for people; whole where four decimals would hide a difference."""
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, list) else value
