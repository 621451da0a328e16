"""Settings of reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ilrec_cli.config import Control, Positional
from ilrec_cli.settings._base import DATA, RUN, Common


@dataclass(frozen=True, kw_only=True)
class Reproduce(Common):
    """Make a table or figure of the paper: ours beside the paper's. Stopped and given again, it does what is missing."""

    tables: Annotated[
        tuple[str, ...],
        "table1, table3 to table10, figure2, figure4, figure5, figure6; several share what they have in common",
        Positional,
        DATA,
    ] = ()
    scale: Annotated[
        Literal["tiny", "small", "paper"],
        "tiny: two CPU cores, a made-up shop; small: one GPU; paper: the paper's eight, by accelerate",
        DATA,
    ] = "tiny"
    dry_run: Annotated[bool, "print the plan: cells done and missing, hours, commands to paste", Control, RUN] = False
    dataset: Annotated[str | None, "this dataset for all columns, instead of the scale's", DATA] = None
    raw_dir: Annotated[
        Path | None, "folder with a folder of raw files for each dataset, or with the files of --dataset", Control, DATA
    ] = None
    ids: Annotated[str | None, "identifiers for LC-Rec that are there already, by name [built]", DATA] = None
    titled: Annotated[str, "dataset for BIGRec where the data have no titles; its columns are labelled so", DATA] = (
        "Industrial_and_Scientific"
    )
    seeds: Annotated[tuple[int, ...], "seeds of the language models [by the scale]", DATA] = ()
    rows: Annotated[tuple[str, ...], "only these rows, by their names in the table", Control, DATA] = ()

    def __post_init__(self) -> None:
        if not self.tables:
            raise ValueError("name a table or figure, such as table3")
        for seed in self.seeds:
            if not 0 <= seed < 2**31 or self.seeds.count(seed) > 1:
                raise ValueError(f"seeds is {self.seeds}, expected different numbers from 0 to 2**31 - 1")
