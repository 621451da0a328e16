"""The declared grid of a table -> its cells, each with the commands that make it, or the reason why it cannot exist.

A training, identifiers and a collaborative model are named by a hash of their settings. So cells of whatever table that need
the same one name the same one, and changed settings make another instead of overwriting.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ilrec_cli import config as configs
from ilrec_cli import plugins, presets, settings
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.methods.ilrec.layers import resolve_layers
from ilrec_cli.settings import Reproduce
from ilrec_cli.stages._start import TAKEN

FOLDER = Path(plugins.__file__).parent / "reproduce"
NAMES = {"Instruments": "Instrument", "Arts": "Art", "Games": "Game", "lastfm": "LastFM"}  # ours -> the paper's


class Step(NamedTuple):
    """A command: its arguments but for --work and --raw-dir, the folder it makes (in --work), what its time depends on."""

    argv: tuple[str, ...]
    output: str | None
    kind: str
    files: str | None = None  # of preprocess: the dataset whose raw files are read


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One trained and evaluated model of a table."""

    row: str
    paradigm: str  # "" for collaborative models
    column: str  # the paper's dataset
    dataset: str  # ours
    seed: int
    steps: tuple[Step, ...] = ()
    why: str | None = None  # it cannot exist
    paper: tuple[Any, ...] = ()  # where its figures stand in paper.json; () for nowhere
    stands_in: str | None = None  # for the paper's backbone

    @property
    def name(self) -> str:
        parts = (self.paradigm, self.row, self.dataset, f"s{self.seed}")
        return "-".join(slug(part) for part in parts if part)

    @property
    def label(self) -> str:
        parts = [self.paradigm, self.row, self.dataset, f"seed {self.seed}"]
        return ", ".join(part for part in parts if part)


class Table(NamedTuple):
    """A table of the paper at a scale."""

    name: str
    grid: dict[str, Any]
    scale: dict[str, Any]
    cells: list[Cell]


def names() -> list[str]:
    """Every table and figure, in the paper's order."""
    found = [path.stem for path in FOLDER.glob("*[0-9].yaml")]
    return sorted(found, key=lambda name: (name[0] == "f", int(re.sub(r"\D", "", name))))


def published() -> dict[str, Any]:
    """The paper's tables, as data."""
    return dict(json.loads((FOLDER / "paper.json").read_text(encoding="utf-8")))


def elsewhere() -> list[dict[str, Any]]:
    """Figures published elsewhere, with their sources and marks."""
    return list(configs.read_yaml(FOLDER / "elsewhere.yaml")["sources"])


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("w/o", "wo")).strip("-")


def read(name: str, config: Reproduce, untitled: Iterable[str] = (), there: Iterable[str] = ()) -> Table:
    """The table's cells at the scale; `untitled`: datasets whose items have no titles, `there`: those that are there."""
    if name not in names():
        raise UserError(f"there is no '{name}'; choose from {', '.join(names())}.{nearest(name, names())}")
    grid = configs.read_yaml(FOLDER / f"{name}.yaml")
    scale = _over(configs.read_yaml(FOLDER / "scales.yaml")[config.scale], grid.get("scales", {}).get(config.scale, {}))
    rows = {row: each for row, each in grid["rows"].items() if not config.rows or row in config.rows}
    for row in config.rows:
        if row not in grid["rows"]:
            raise UserError(f"--rows: {name} has no row '{row}'. Its rows: {', '.join(grid['rows'])}")
    maker = Maker(config, grid, scale, set(untitled), set(there))
    cells = [cell for row, each in rows.items() for cell in maker.cells(row, each)]
    return Table(name, grid, scale, cells)


def datasets(table: Table, config: Reproduce) -> dict[str, dict[str, Any]]:
    """The paper's dataset -> ours: its name, how it is preprocessed."""
    if config.dataset is not None:
        known = NAMES.get(config.dataset, table.grid["datasets"][-1] if table.grid["datasets"] else "Instrument")
        return {known: {"name": config.dataset}}
    return {
        column: table.scale["datasets"][column]
        for column in table.grid["datasets"]
        if column in table.scale["datasets"]
    }


class Maker:
    """Makes the cells of one table."""

    def __init__(
        self, config: Reproduce, grid: dict[str, Any], scale: dict[str, Any], untitled: set[str], there: set[str]
    ):
        self.config, self.grid, self.scale, self.untitled, self.there = config, grid, scale, untitled, there
        self.datasets = datasets(Table("", grid, scale, []), config)

    def cells(self, row: str, each: dict[str, Any]) -> list[Cell]:
        """Those of a row: of every paradigm, dataset and seed. Collaborative models have one, of no paradigm."""
        paradigms = [""] if "model" in each else self.grid["paradigms"]
        seeds = [0] if "model" in each else list(self.config.seeds or self.scale["seeds"])
        return [
            self._cell(row, each, paradigm, column, seed)
            for paradigm in paradigms
            for column in self.datasets
            for seed in seeds
        ]

    def _cell(self, row: str, each: dict[str, Any], paradigm: str, column: str, seed: int) -> Cell:
        data = self.datasets[column]
        if paradigm == "BIGRec" and data["name"] in self.untitled:
            if self.config.titled not in self.there:
                why = (
                    f"{data['name']} has no titles, and {self.config.titled}, on which BIGRec would run instead, is not there. "
                    f"Run: ilrec preprocess --dataset {self.config.titled} --raw-dir FOLDER"
                )
                return Cell(row=row, paradigm=paradigm, column=column, dataset=data["name"], seed=seed, why=why)
            data = {"name": self.config.titled}
        path = tuple(
            part.format(paradigm=paradigm) if isinstance(part, str) else part for part in each.get("paper", [row])
        )
        backbone = self.scale["backbones"][self._backbone(each)] if paradigm else {}
        about: dict[str, Any] = {"row": row, "paradigm": paradigm, "column": column, "dataset": data["name"], "seed": seed,
                                 "paper": path, "stands_in": backbone.get("stands_in")}  # fmt: skip
        try:
            return Cell(**about, steps=tuple(self._steps(each, paradigm, data, seed)))
        except UserError as error:
            return Cell(**about, why=str(error))

    def _backbone(self, each: dict[str, Any]) -> str:
        return str(each.get("backbone", self.grid.get("backbone", self.scale["default_backbone"])))

    def _steps(self, each: dict[str, Any], paradigm: str, data: dict[str, Any], seed: int) -> list[Step]:
        steps = [self._preprocess(data)]
        if "model" in each:
            cf = self._cf(each["model"], data)
            return [
                *steps,
                cf,
                self._evaluate({**self.scale.get("evaluate", {}), **each.get("evaluate", {})}, data, cf, ""),
            ]
        chosen = _over(self._training(each, paradigm, data), each)
        if why := self.scale["backbones"][self._backbone(each)].get("why"):
            raise UserError(why)
        ids = self._ids(paradigm, data)
        steps += [] if ids is None else [ids]
        start = None
        if "from" in each:
            sft = {"method": each["from"], **{key: each[key] for key in ("backbone",) if key in each}}
            start = self._train(sft, self._training(sft, paradigm, data), ids, None, None, data, seed, paradigm)
            steps.append(start)
        cf = self._cf(each.get("reward", self.scale["reward"]), data) if _needs_cf(each["method"], chosen) else None
        steps += [cf] if cf else []
        steps.append(self._train(each, chosen, ids, cf, start, data, seed, paradigm))
        rules = _over(_over(self.scale.get("evaluate", {}), self.scale["paradigms"][paradigm].get("evaluate", {})),
                      each.get("evaluate", {}))  # fmt: skip
        if rules.get("decode") == "free" and "grounding" in self.scale:
            grounding = self._build(self.scale["grounding"], data)
            steps.insert(2, grounding)
            rules = {**rules, "grounding": _name(grounding)}
        return [*steps, self._evaluate(rules, data, steps[-1], paradigm)]

    def _training(self, each: dict[str, Any], paradigm: str, data: dict[str, Any]) -> dict[str, Any]:
        """Settings of a method: of the scale, the paradigm, the method, the backbone; the row's own come over these."""
        found: dict[str, Any] = {}
        backbone = self.scale["backbones"][self._backbone(each)]
        method = self.scale.get("methods", {}).get(each["method"], {})
        for layer in (self.scale["paradigms"][paradigm].get("train", {}), method, self.scale["train"], backbone.get("train", {}),
                      {"preset": data.get(each["method"], [])}, each.get("train", {})):  # fmt: skip
            found = _over(found, layer)
        return found

    def _train(
        self, each: dict[str, Any], chosen: dict[str, Any], ids: Step | None, cf: Step | None, start: Step | None,
        data: dict[str, Any], seed: int, paradigm: str,
    ) -> Step:  # fmt: skip
        method = each["method"]
        values = {key: value for key, value in chosen.items() if key in _known(settings.Train)}
        self._refuse_layers(each, chosen, seed)
        if start is not None:
            values = {key: value for key, value in values.items() if key not in TAKEN} | {"from": _name(start)}
        else:
            values["ids"] = self.config.ids if ids is None else _name(ids)
        values |= {} if cf is None else {"cf": _name(cf)}
        argv = [
            "train",
            "--dataset",
            data["name"],
            "--method",
            method.replace("_", "-"),
            "--seed",
            str(seed),
            *flags(values),
        ]
        _check(settings.Train, {**values, "method": method, "dataset": data["name"]}, "train")
        name = f"{slug(paradigm)}-{method.replace('_', '-')}-{_hash(argv)}-s{seed}"
        size = f"{chosen.get('backbone', 'tiny')} {chosen.get('n_layers', '')}".strip()
        kind = f"train {paradigm} {method} {size} {data['name']}"
        return Step((*argv, "--name", name), f"{data['name']}/runs/{name}/train", kind)

    def _refuse_layers(self, each: dict[str, Any], chosen: dict[str, Any], seed: int) -> None:
        """`UserError` for layers that the model does not have."""
        options = _options(each["method"], chosen)
        depth = self.scale["backbones"][self._backbone(each)].get("depth", chosen.get("n_layers"))
        if "layers" in options and depth is not None:
            resolve_layers(str(options["layers"]), int(depth), seed)

    def _preprocess(self, data: dict[str, Any]) -> Step:
        argv = ["preprocess", "--dataset", data["name"], *flags(data.get("preprocess", {}))]
        return Step(tuple(argv), f"{data['name']}/data", f"preprocess {data['name']}", data.get("files", data["name"]))

    def _ids(self, paradigm: str, data: dict[str, Any]) -> Step | None:
        """None where identifiers that are there were named."""
        if paradigm == "LC-Rec" and self.config.ids is not None:
            return None
        return self._build(self.scale["ids"][paradigm], data)

    def _build(self, values: dict[str, Any], data: dict[str, Any]) -> Step:
        argv = ["build-ids", "--dataset", data["name"], *flags(values)]
        name = f"{values.get('scheme', 'codes')}-{_hash(argv)}"
        return Step((*argv, "--name", name), f"{data['name']}/ids/{name}", f"build-ids {name} {data['name']}")

    def _cf(self, model: str, data: dict[str, Any]) -> Step:
        argv = ["train-cf", "--dataset", data["name"], "--model", model, *flags(self.scale.get("train-cf", {}))]
        name = f"{model}-{_hash(argv)}"
        return Step((*argv, "--name", name), f"{data['name']}/cf/{name}/train", f"train-cf {model} {data['name']}")

    def _evaluate(self, rules: dict[str, Any], data: dict[str, Any], model: Step, paradigm: str) -> Step:
        _check(settings.Evaluate, {**rules, "dataset": data["name"]}, "evaluate")
        argv = ("evaluate", "--dataset", data["name"], "--run", _name(model), *flags(rules))
        return Step(argv, None, f"evaluate {model.kind.partition(' ')[2]}")


def flags(values: dict[str, Any]) -> list[str]:
    """Settings as the command line has them."""
    found: list[str] = []
    for key, value in values.items():
        flag = f"--{key.rstrip('_').replace('_', '-')}"
        if key == "options":
            found += [
                part
                for name, each in value.items()
                for part in ("-o", f"{name}={str(each).lower() if isinstance(each, bool) else each}")
            ]
        elif isinstance(value, bool):
            found += [flag] if value else [f"--no-{flag[2:]}"]
        elif isinstance(value, list):
            found += [flag, ",".join(map(str, value))] if value else []
        elif value is not None:
            found += [flag, str(value)]
    return found


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both, the second winning: mappings key by key, lists of presets joined."""
    found = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] = _over(found[key], value)
        elif key == "preset" and isinstance(value, list):
            found[key] = [*found.get(key, []), *value]
        else:
            found[key] = value
    return found


def _options(method: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """Options of a method, those of its presets below."""
    below = presets.chosen(plugins.load("methods", method), chosen.get("preset", []))
    return {**below.get("options", {}), **chosen.get("options", {})}


def _needs_cf(method: str, chosen: dict[str, Any]) -> bool:
    """Whether this configuration of the method asks for a collaborative model."""
    plugin = plugins.load("methods", method)
    options = configs.build(plugin.Config, _options(method, chosen), f"method '{method}'")
    return any(need.startswith("cf_") for need in plugin.needs(options))


def _check(cls: type, values: dict[str, Any], command: str) -> None:
    """`UserError` where this ilrec has no such setting, plug-in or preset."""
    configs.build(cls, presets.under(cls, {key: _text(value) for key, value in values.items()}), f"ilrec {command}")


def _text(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _known(cls: type) -> set[str]:
    return {field.name for field in configs.fields(cls)}


def _name(step: Step) -> str:
    return step.argv[-1] if step.argv[-2] == "--name" else ""


def _hash(argv: list[str]) -> str:
    """Of settings that decide a result."""
    return hashlib.sha256(json.dumps(argv).encode()).hexdigest()[:6]
