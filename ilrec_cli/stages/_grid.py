"""The declared grid of a table -> its cells, each with the commands that make it, or the reason why it cannot exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.settings import Reproduce
from ilrec_cli.stages._recipe import Recipes, Step, over

FOLDER = Path(plugins.__file__).parent / "reproduce"
NAMES = {"Instruments": "Instrument", "Arts": "Art", "Games": "Game", "lastfm": "LastFM"}  # ours -> the paper's


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
    datasets: dict[str, dict[str, Any]]  # the paper's -> ours: its name, how it is preprocessed
    cells: list[Cell] = []  # noqa: RUF012  of a tuple, never added to


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


def declared(name: str, config: Reproduce) -> Table:
    """The table at the scale, without its cells; `UserError` for a table or a row that there is not."""
    if name not in names():
        raise UserError(f"there is no '{name}'; choose from {', '.join(names())}.{nearest(name, names())}")
    grid = configs.read_yaml(FOLDER / f"{name}.yaml")
    scale = over(configs.read_yaml(FOLDER / "scales.yaml")[config.scale], grid.get("scales", {}).get(config.scale, {}))
    for row in config.rows:
        if row not in grid["rows"]:
            raise UserError(f"--rows: {name} has no row '{row}'. Its rows: {', '.join(grid['rows'])}")
    return Table(name, grid, scale, _datasets(grid, scale, config))


def _datasets(grid: dict[str, Any], scale: dict[str, Any], config: Reproduce) -> dict[str, dict[str, Any]]:
    """The paper's dataset -> ours: its name, how it is preprocessed, settings of its own."""
    if config.dataset is not None:
        known = {data["name"]: (column, data) for column, data in scale["datasets"].items()}
        unknown = NAMES.get(config.dataset, grid["datasets"][0]), {"name": config.dataset}
        return dict([known.get(config.dataset, unknown)])
    return {column: scale["datasets"][column] for column in grid["datasets"] if column in scale["datasets"]}


def filled(table: Table, config: Reproduce, untitled: Iterable[str] = (), there: Iterable[str] = ()) -> Table:
    """With its cells; `untitled`: datasets whose items have no titles, `there`: those that are preprocessed."""
    maker = Maker(config, table, set(untitled), set(there))
    return table._replace(cells=[cell for row, each in table.grid["rows"].items() for cell in maker.cells(row, each)])


class Maker:
    """Makes the cells of one table."""

    def __init__(self, config: Reproduce, table: Table, untitled: set[str], there: set[str]):
        self.config, self.grid, self.scale, self.datasets = config, table.grid, table.scale, table.datasets
        self.untitled, self.there = untitled, there

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
        data, why = self._data(paradigm, column)
        backbone = str(each.get("backbone", self.grid.get("backbone", self.scale["default_backbone"])))
        recipes = Recipes(self.scale, backbone, paradigm, data, seed, self.config.ids)
        path = tuple(
            part.replace("{paradigm}", paradigm) if isinstance(part, str) else part for part in each.get("paper", [row])
        )
        about: dict[str, Any] = {"row": row, "paradigm": paradigm, "column": column, "dataset": data["name"], "seed": seed,
                                 "paper": path}  # fmt: skip
        if why is not None:
            return Cell(**about, why=why)
        if paradigm:
            about["stands_in"] = recipes.backbone.get("stands_in")
        try:
            return Cell(**about, steps=tuple(recipes.steps(each)))
        except UserError as error:
            return Cell(**about, why=str(error).partition(" Known: ")[0])

    def _data(self, paradigm: str, column: str) -> tuple[dict[str, Any], str | None]:
        """The dataset of a cell, and why there is none: BIGRec needs titles, and takes other data where there are none."""
        data, titled = self.datasets[column], self.config.titled
        if paradigm != "BIGRec" or data["name"] not in self.untitled:
            return data, None
        if titled in self.there:
            return {"name": titled}, None
        where = "" if self.config.work == Reproduce.work else f" --work {self.config.work}"
        return data, (
            f"{data['name']} has no titles, and {titled}, on which BIGRec would run instead, is not there. "
            f"Run: ilrec preprocess --dataset {titled} --raw-dir FOLDER{where}"
        )
