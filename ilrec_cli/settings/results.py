"""Settings of report, export, demo, doctor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ilrec_cli.config import Control
from ilrec_cli.settings._base import DATA, MODEL, RUN, Common, Data, DType, above, at_least

FORMATS = ("html", "md", "tex", "csv", "svg", "png", "pdf")  # of a report


@dataclass(frozen=True, kw_only=True)
class Report(Common):
    """Compare all evaluated runs of a dataset: a table here, a page with figures in a file, tables and figures for papers."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None
    base: Annotated[str | None, "run that others are compared with [sft, else the first language model]", DATA] = None
    explain: Annotated[
        Literal["auto", "on", "off"],
        "show how the tokens of a path looked layer by layer, for one user; auto: where the model is small",
        MODEL,
    ] = "auto"
    formats: Annotated[
        tuple[str, ...],
        "what to write: html, and beside it in a folder md, tex, csv, and figures as svg, png, pdf",
        Control,
        RUN,
    ] = ("html", "md", "tex", "csv")
    watch: Annotated[
        bool, "write it again whenever a training or an evaluation goes on, until Ctrl-C", Control, RUN
    ] = False
    every: Annotated[float, "seconds between two looks of --watch", Control, RUN] = 5.0
    stop_after: Annotated[float | None, "end --watch after this many seconds (smoke tests)", Control, RUN] = None
    output: Annotated[Path | None, "the page [WORK/DATASET/report.html]", Control, RUN] = None

    def __post_init__(self) -> None:
        above(self, 0, "every")
        at_least(self, 0, "stop_after")
        unknown = [each for each in self.formats if each not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"formats is '{','.join(self.formats)}', expected some of {', '.join(FORMATS)}")


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
