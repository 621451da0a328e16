"""Settings of train-cf and tune cf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ilrec_cli.config import Control, Plugin
from ilrec_cli.settings._base import (
    DATA,
    MODEL,
    OPTIMISER,
    RUN,
    Data,
    DType,
    OnUsers,
    Options,
    above,
    at_least,
    exclusive,
)


@dataclass(frozen=True, kw_only=True)
class FitCf(OnUsers):
    """How a collaborative model is trained."""

    data: Data = None
    model: Annotated[str, "the collaborative model", Plugin("cf"), MODEL] = "sasrec"
    epochs: Annotated[int, "passes over the training data at most", OPTIMISER] = 60
    patience: Annotated[int, "stop after this many epochs without a better validation NDCG@10", OPTIMISER] = 5
    batch_size: Annotated[int, "sequences a step", OPTIMISER] = 128
    learning_rate: Annotated[float, "of Adam", OPTIMISER] = 1e-3
    weight_decay: Annotated[float, "decoupled, on matrices only", OPTIMISER] = 0.0
    clip: Annotated[float, "largest norm of the gradient", OPTIMISER] = 5.0
    max_steps: Annotated[int | None, "stop after this many steps (smoke tests)", OPTIMISER] = None
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"
    dtype: Annotated[DType, "number format of the forward pass", RUN] = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "epochs", "patience", "batch_size", "max_steps")
        at_least(self, 0, "weight_decay")
        above(self, 0, "learning_rate", "clip")


@dataclass(frozen=True, kw_only=True)
class TrainCf(FitCf):
    """Train a collaborative model: a baseline, and the reward model of ILRec."""

    preset: Annotated[
        tuple[str, ...], "the model's tuned settings for a data set; a file, flags and -o win", Control, MODEL
    ] = ()
    seeds: Annotated[
        tuple[int, ...], "train one model for each of these seeds, comma-separated: NAME-sSEED", Control, RUN
    ] = ()
    seen_items: Annotated[
        Literal["ranked", "removed"],
        "whether what a user had before is recommended when metrics are computed",
        Control,
        DATA,
    ] = "ranked"
    name: Annotated[str | None, "name of the result [MODEL-HASH-sSEED]", Control, RUN] = None
    resume: Annotated[bool, "go on from the last checkpoint", Control, RUN] = False
    overwrite: Annotated[bool, "train again where the result exists", Control, RUN] = False
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        exclusive(self, "resume", "overwrite")
        for seed in self.seeds:
            if not 0 <= seed < 2**31 or self.seeds.count(seed) > 1:
                raise ValueError(f"seeds is {self.seeds}, expected different numbers from 0 to 2**31 - 1")


@dataclass(frozen=True, kw_only=True)
class TuneCf(FitCf):
    """Search settings of a collaborative model on validation data: -o NAME=A,B,... lists what to try."""

    epochs: Annotated[int, "passes over the training data at most, in every trial", OPTIMISER] = 30
    trials: Annotated[int | None, "combinations to try, drawn by the seed [all of them]", RUN] = None
    name: Annotated[str | None, "name of the search [MODEL]", Control, RUN] = None
    overwrite: Annotated[bool, "forget the trials that are there", Control, RUN] = False
    options: Annotated[
        dict[str, Any], "values to try of a model's option or a setting of train-cf, as key=A,B,... (repeatable)"
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "trials")
