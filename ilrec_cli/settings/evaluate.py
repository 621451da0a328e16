"""Settings of evaluate and compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ilrec_cli.config import Control, Positional
from ilrec_cli.settings._base import DATA, MODEL, RUN, Common, Data, DType, OnUsers, at_least, exclusive


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnUsers):
    """Rank the full catalogue for held-out events and compute metrics."""

    data: Data = None
    run: Annotated[
        tuple[str, ...], "runs and collaborative models: names, methods or folders, comma-separated [all]", DATA
    ] = ()
    split: Annotated[Literal["test", "valid"], "which held-out items", DATA] = "test"
    beams: Annotated[int, "beams of the search over identifiers", MODEL] = 20
    normalize: Annotated[
        Literal["vocab", "ids", "trie"] | None,
        "what a step's probabilities sum to one over [as trained: ids with train --vocab-scope ids, else vocab]",
        MODEL,
    ] = None
    candidates: Annotated[
        Literal["sum", "mean", "generate"] | None,
        "rank each event's own candidates, not the catalogue: by the sum or mean of their log-probabilities, or by what the "
        "model writes; collaborative models by their scores",
        DATA,
    ] = None
    template: Annotated[int, "which prompt of candidate ranking", MODEL] = 0
    exit_layer: Annotated[
        str | None, "rank with the logits of this layer (1 is the first), or with each in turn: all [the last]", MODEL
    ] = None
    seen_items: Annotated[
        Literal["ranked", "removed"], "whether collaborative models recommend what a user had before", DATA
    ] = "ranked"
    ks: Annotated[tuple[int, ...], "list lengths of the metrics, besides 1, 5, 10 and 20", DATA] = ()
    exact: Annotated[
        int | None, "score every item for this many users, drawn by the seed: how much the search misses", DATA
    ] = None
    batch_size: Annotated[int, "prompts a batch", Control, RUN] = 64
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"
    dtype: Annotated[DType, "number format of the model", RUN] = "float32"
    overwrite: Annotated[bool, "evaluate again where the result exists", Control, RUN] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "beams", "batch_size", "exact")
        at_least(self, 0, "template")
        if self.candidates is not None:
            exclusive(self, "candidates", "exact")
            if self.seen_items == "removed":
                raise ValueError(
                    "seen_items removed and candidates exclude each other: candidates are ranked as they are"
                )
            if self.normalize == "trie":
                raise ValueError("normalize is 'trie', expected vocab or ids with candidates")
        if any(k < 1 for k in self.ks):
            raise ValueError(f"ks holds {min(self.ks)}, expected at least 1")
        layer = self.exit_layer
        if layer is not None and layer != "all" and not (layer.isdigit() and int(layer) >= 1):
            raise ValueError(f"exit_layer is '{layer}', expected a layer from 1 on, or all")
        if self.exact and self.limit_users and self.exact > self.limit_users:
            raise ValueError(f"exact is {self.exact}, expected at most --limit-users {self.limit_users}")


@dataclass(frozen=True, kw_only=True)
class Compare(Common):
    """Is the difference real? Evaluated models against the first one: paired by user, with intervals and p-values."""

    models: Annotated[
        tuple[str, ...],
        "two or more evaluated models, the base first: NAME, or NAME:PROTOCOL where several exist; a name whose runs end "
        "in -s0, -s1, ... stands for their mean",
        Positional,
        DATA,
    ] = ()
    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None
    split: Annotated[Literal["test", "valid"], "which held-out items", DATA] = "test"
    metrics: Annotated[tuple[str, ...], "metrics to compare", DATA] = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
    slices: Annotated[bool, "compare within every slice of events too", DATA] = False
    force: Annotated[bool, "compare what was measured under different protocols", DATA] = False
    seed: Annotated[int, "seed of the resampling", RUN] = 0

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")
        if len(self.models) < 2:
            raise ValueError("name at least two models: the base, then what is compared with it")
