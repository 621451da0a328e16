"""Settings of report, export, demo, doctor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ilrec_cli.config import Control
from ilrec_cli.settings._base import DATA, MODEL, RUN, Common, Data, DType, at_least


@dataclass(frozen=True, kw_only=True)
class Report(Common):
    """Compare all evaluated runs of a dataset: a table here, a page with figures in a file."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None
    output: Annotated[Path | None, "the page [WORK/DATASET/report.html]", Control, RUN] = None


@dataclass(frozen=True, kw_only=True)
class Export(Common):
    """Write a trained language model as a Hugging Face folder that needs no ilrec: weights, catalogue, prompt, card."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None
    run: Annotated[str | None, "run: name, method or folder [the only run]", DATA] = None
    merge: Annotated[
        bool, "write adapters into the weights of their base; without it the folder holds the adapter", MODEL
    ] = False
    dtype: Annotated[DType, "number format of the weights written; they are merged in float32", MODEL] = "float32"
    output: Annotated[Path | None, "the folder [WORK/DATASET/exported/RUN]", Control, RUN] = None
    overwrite: Annotated[bool, "replace an exported folder that is there", Control, RUN] = False


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """Run every stage on a small synthetic dataset, and compare SFT with ILRec: a few minutes on two cores."""

    work: Annotated[Path, "folder that holds all artifacts", Control, RUN] = Path("ilrec-demo")
    seed: Annotated[int, "seed of the world and of every stage", RUN] = 0
    max_steps: Annotated[int | None, "stop each training after this many steps (smoke tests)", RUN] = None
    limit_users: Annotated[int | None, "use only this many users (smoke tests)", RUN] = None

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")
        at_least(self, 1, "max_steps", "limit_users")


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """Check this machine: versions, devices, free disk, what is missing."""
