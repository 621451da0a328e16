"""What all commands share: marks, panels of the help, checks, and the settings that every command takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ilrec_cli.config import Control, Panel

DATA, MODEL, OPTIMISER, RUN = Panel("Data"), Panel("Model"), Panel("Optimisation"), Panel("Running")
FILTER, SPLIT = Panel("Filters, in this order"), Panel("Splits")
FAULT, TEXT = Panel("Reading"), Panel("Item text")
VECTORS = Panel("Item vectors")

DType = Literal["float32", "bfloat16"]
Data = Annotated[Path | None, "preprocessed data: folder [WORK/DATASET/data]", Control, DATA]
Options = Annotated[dict[str, Any], "options of the plug-in, as key=value (repeatable); listed by its own command"]


def at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}, expected at least {least}")


def at_most(config: object, most: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value <= most:
            raise ValueError(f"{name} is {value}, expected at most {most:,}")


def above(config: object, bound: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > bound:
            raise ValueError(f"{name} is {value}, expected more than {bound}")


def exclusive(config: object, *names: str) -> None:
    if all(getattr(config, name) for name in names):
        raise ValueError(f"{' and '.join(f'--{name}' for name in names)} exclude each other")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    work: Annotated[Path, "folder that holds all artifacts", Control, RUN] = Path("ilrec-work")
    quiet: Annotated[bool, "print errors only", Control, RUN] = False
    verbose: Annotated[bool, "print details", Control, RUN] = False
    json: Annotated[bool, "end with one line of JSON for programs", Control, RUN] = False


@dataclass(frozen=True, kw_only=True)
class Seeded(Common):
    """What every stage on a dataset takes."""

    dataset: Annotated[str, "name of the dataset: its artifacts lie in WORK/DATASET", DATA]
    seed: Annotated[int, "seed of everything that is drawn", RUN] = 0

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")
        if self.seed >= 2**31:
            raise ValueError(f"seed is {self.seed}, expected less than 2**31")


@dataclass(frozen=True, kw_only=True)
class OnUsers(Seeded):
    """What every stage over users takes."""

    limit_users: Annotated[int | None, "use only this many users, drawn by the seed (smoke tests)", DATA] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "limit_users")
