"""What a comparison is of: for every model that was named a finished evaluation, under a protocol that all of them have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli import artifacts
from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.metrics import KS
from ilrec_cli.settings import Compare
from ilrec_cli.stages import _candidate_sets, _evaluation, _inputs, _protocol, _rankings, _summary, _templates
from ilrec_cli.stages._summary import Judged

DEFAULTS = ("full", "full-beam20-vocab")  # protocols of `ilrec evaluate` without flags
SEED_OF = r"-s\d+$"  # how the runs of one configuration are told apart


class Side(NamedTuple):
    """What is compared: one model, or the runs of one configuration whose values are averaged event by event.

    So are a run's evaluations under each of its prompts.
    """

    name: str
    protocol: str
    rules: dict[str, Any]
    event_E: np.ndarray
    judged: list[Judged]  # of each seed, and of each prompt of each seed
    prompts: int
    parts: Mapping[str, Mapping[str, np.ndarray]]  # slices that the protocol has, besides those of all

    def values(self, ks: list[int]) -> dict[str, np.ndarray]:
        """Every metric of every event, the mean over seeds and prompts."""
        each = [_summary.values(judged, ks) for judged in self.judged]
        return {name: np.mean([values[name] for values in each], 0) for name in each[0]}

    def seeds(self) -> list[Side]:
        """Each seed by itself."""
        starts = range(0, len(self.judged), self.prompts)
        return [self._replace(judged=self.judged[start : start + self.prompts]) for start in starts]


class Offer(NamedTuple):
    """An evaluation that a selector could mean: under one protocol, of one model or of every seed, under each prompt."""

    selector: str
    protocol: str
    rules: dict[str, Any]
    done: list[Artifact]

    @property
    def facts(self) -> dict[str, Any]:
        return self.done[0].json("metrics.json")


def choose(config: Compare, data: Artifact) -> list[Offer]:
    """An evaluation for every selector: under one protocol where they have one in common, else each one's plainest."""
    base, *others = ([*_offers(config, selector, data)] for selector in config.models)
    common = [offer for offer in base if all(_like(offer, other) for other in others)]
    if not common:
        return [_only(offers) for offers in (base, *others)]
    chosen = _only(common)
    return [chosen, *(_only(_like(chosen, other)) for other in others)]


def require(offer: Offer, k: int, config: Compare) -> None:
    """`UserError` if the lists are too short for metrics at k."""
    beams = offer.rules["beams"] if offer.rules.get("search") == "beams" else None
    longest = max(offer.facts["ks"]) if beams is None else min(max(offer.facts["ks"]), beams)
    if k > longest:
        flags = [f"--ks {k}" if k not in KS else "", f"--beams {k}" if beams is not None and k > beams else ""]
        name = offer.selector.partition(":")[0]
        raise UserError(
            f"'{name}' under {offer.protocol} has lists of {longest}; metrics at {k} need: ilrec evaluate "
            f"{_inputs.flags(config)} --run {name} {' '.join(filter(None, flags))}"
        )


def read(offer: Offer, data: Artifact) -> Side:
    """The events of an evaluation, with all that metrics need of them."""
    events, judged = zip(*(_rankings.judged(done, data) for done in offer.done), strict=True)
    if any(not np.array_equal(event_E, events[0]) for event_E in events):
        raise UserError(f"'{offer.selector}': its runs were evaluated on different events. Evaluate them again")
    among_candidates = offer.rules["candidates"] != _protocol.FULL
    parts = _candidate_sets.seen(data, _rankings.standing(events[0], data)[2]) if among_candidates else {}
    return Side(
        offer.selector, offer.protocol, offer.rules, events[0], list(judged), offer.rules.get("templates", 1), parts
    )


def _like(offer: Offer, others: Sequence[Offer]) -> list[Offer]:
    """Those whose numbers mean the same."""
    return [other for other in others if not _protocol.differences(offer.rules, other.rules)]


def _only(offers: list[Offer]) -> Offer:
    """The evaluation of evaluate's defaults, or the only one over all users with the last layer, or the only one."""
    left = [each for each in offers if each.protocol.removeprefix("test-").removeprefix("valid-") in DEFAULTS] or offers
    left = [each for each in left if each.rules.get("aggregation") != "mean"] or left
    for special in ("limit_users", "exit_layer", "template"):
        left = [each for each in left if special not in each.rules] or left
    if len(left) > 1:
        name = left[0].selector
        raise UserError(
            f"'{name}' is evaluated under several protocols: {', '.join(each.protocol for each in left)}. "
            f"Choose one: {name}:{left[0].protocol}"
        )
    return left[0]


def _offers(config: Compare, selector: str, data: Artifact) -> list[Offer]:
    """What NAME or NAME:PROTOCOL can stand for; for NAME-s0, NAME-s1, ...: the protocols that every one of them has."""
    name, _, protocol = selector.partition(":")
    each = [_evaluations(model, data) for model in _models(config, name)]
    if protocol:
        each = [{known: one for known, one in found.items() if known == protocol} for found in each]
    else:
        each = [{known: one for known, one in found.items() if one.rules["split"] == config.split} for found in each]
    if not all(each):
        what = f" under the protocol {protocol}" if protocol else ""
        raise UserError(f"'{name}' is not evaluated{what}. Run: ilrec evaluate {_inputs.flags(config)} --run {name}")
    shared = [known for known in each[0] if all(known in found for found in each)]
    if not shared:
        raise UserError(f"'{name}': its runs were evaluated under different protocols. Evaluate them alike")
    return [
        Offer(selector, known, each[0][known].rules, [done for found in each for done in found[known].done])
        for known in shared
    ]


def _models(config: Compare, name: str) -> list[Path]:
    """The folder of a model, or of every seed of a configuration."""
    if "/" not in name:
        for paths in _inputs.models(config).values():
            seeds = [path for known, path in paths.items() if re.sub(SEED_OF, "", known) == name and known != name]
            if seeds and name not in paths:
                _require_one_configuration(name, seeds)
                return seeds
    return [_inputs.find_model(config, name)[0]]


def _require_one_configuration(name: str, models: Sequence[Path]) -> None:
    """`UserError` if runs that only their names make seeds of one configuration differ in more than the seed."""
    first, *others = (_without_seed(artifacts.read_manifest(model)["config"]) for model in models)
    for model, other in zip(models[1:], others, strict=True):
        differ = sorted(key for key in first.keys() & other.keys() if first[key] != other[key])
        if differ:
            key, one, two = differ[0], models[0].parent.name, model.parent.name
            raise UserError(
                f"'{name}' would be the mean of runs that differ in more than the seed: {key} is {first[key]} in {one} and "
                f"{other[key]} in {two}. Name one of them, or train them alike"
            )


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run; those that name a run of the same seed (its reward model, its start) without that seed."""
    options = {key: value for key, value in config["options"].items() if key != "seed"}
    plain = {key: re.sub(SEED_OF, "", value) if isinstance(value, str) else value for key, value in config.items()}
    return {**plain, "options": options, "seed": None}


def _evaluations(model: Path, data: Artifact) -> dict[str, Offer]:
    """Finished evaluations of this very model on these very data, by protocol, and means over prompts."""
    current = {"run": artifacts.read_manifest(model)["digest"], "data": data.digest}
    folders = [path for path in sorted((model.parent / "eval").glob("[!.]*")) if artifacts.exists(path)]
    done = [artifacts.read(path, "eval") for path in folders]
    facts = [(each, each.json("metrics.json")) for each in done if each.manifest["parents"].items() >= current.items()]
    found = {
        each.name: Offer("", each.name, said["protocol"], [each])
        for each, said in facts
        if said.get("version") == _evaluation.VERSION
    }
    for path, said in _templates.kept(model, current).items():
        if said["by_template"].keys() <= found.keys():
            every = [found[name].done[0] for name in said["by_template"]]
            found[path.stem] = Offer("", path.stem, said["protocol"], every)
    return found
