"""Settings of evaluate and compare."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from ilrec_cli.config import Control, Panel, Positional
from ilrec_cli.settings._base import DATA, MODEL, RUN, Common, Data, DType, OnUsers, at_least

TEXT_TOKENS = 128  # BIGRec's inference.py
TEXT = Panel("Free text (--decode free)")


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
    template: Annotated[int, "which of the prompts that a run was trained with; 0 is the first", MODEL] = 0
    all_templates: Annotated[bool, "every prompt that a run was trained with: their mean, least and most", MODEL] = (
        False
    )
    exit_layer: Annotated[
        str | None, "rank with the logits of this layer (1 is the first), or with each in turn: all [the last]", MODEL
    ] = None
    cf_guidance: Annotated[
        float | None,
        "D3: a step of the search scores this share of the model's log-probability, and the rest of --cf's [the model alone]",
        MODEL,
    ] = None
    cf: Annotated[
        str | None,
        "collaborative model of --cf-guidance and of --adjust cf: name or folder [the only trained one]",
        MODEL,
    ] = None
    decode: Annotated[
        Literal["trie", "free"],
        "trie: a search over identifiers; free: the model writes a title, items with the nearest titles are listed (BIGRec)",
        MODEL,
    ] = "trie"
    text_beams: Annotated[int, "beams of the writing; only the best text counts", TEXT] = 4
    text_tokens: Annotated[int, "tokens of a text at most", TEXT] = TEXT_TOKENS
    grounding: Annotated[
        str | None,
        "what embeds titles: base (the model before its fine-tuning), or identifiers, for the encoder they were made with "
        "[base of a pretrained model, else the only identifiers with an encoder]",
        TEXT,
    ] = None
    adjust: Annotated[
        Literal["popularity", "cf"] | None,
        "divide distances D by (1 + S)^gamma, S from training counts or from the scores of --cf [not at all]",
        TEXT,
    ] = None
    gamma: Annotated[str, "of --adjust: a number, or auto: the best on validation, from a grid", TEXT] = "auto"
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
        for other in ("template", "exit_layer", "exact"):
            if self.all_templates and getattr(self, other):
                raise ValueError(f"all_templates and {other} exclude each other")
        if any(k < 1 for k in self.ks):
            raise ValueError(f"ks holds {min(self.ks)}, expected at least 1")
        layer = self.exit_layer
        if layer is not None and layer != "all" and not re.fullmatch("[1-9][0-9]{0,3}", layer):
            raise ValueError(f"exit_layer is '{layer}', expected a layer from 1 on, or all")
        if self.exact and self.limit_users and self.exact > self.limit_users:
            raise ValueError(f"exact is {self.exact}, expected at most --limit-users {self.limit_users}")
        self._check_candidates()
        self._check_decode()

    def _check_candidates(self) -> None:
        """What plays no part where each event's own candidates are ranked."""
        if self.candidates is None:
            return
        for name in ("exact", "cf_guidance"):
            if getattr(self, name) is not None:
                raise ValueError(f"--candidates and --{name.replace('_', '-')} exclude each other")
        if self.decode == "free" or self.seen_items == "removed":
            other = "--decode free" if self.decode == "free" else "--seen-items removed"
            raise ValueError(f"--candidates and {other} exclude each other")
        if self.normalize == "trie":
            raise ValueError("normalize is 'trie', expected vocab or ids with --candidates")

    def _check_decode(self) -> None:
        """What belongs to one way of decoding, and plays no part in the other."""
        at_least(self, 1, "text_beams", "text_tokens")
        at_least(self, 0, "cf_guidance")
        if self.cf_guidance is not None and self.cf_guidance > 1:
            raise ValueError(f"cf_guidance is {self.cf_guidance}, expected at most 1")
        if self.cf_guidance is not None and self.exact:
            raise ValueError("exact scores are the model's own; they do not go with --cf-guidance")
        if self.gamma != "auto" and not _is_number(self.gamma):
            raise ValueError(f"gamma is '{self.gamma}', expected a number of at least 0, or auto")
        if self.decode == "free":
            given = [
                name for name in ("normalize", "exit_layer", "exact", "cf_guidance") if getattr(self, name) is not None
            ]
            given += [name for name in ("template", "all_templates") if getattr(self, name)]
            if given:
                raise ValueError(
                    f"--{given[0].replace('_', '-')} is of the search over identifiers; leave out --decode free"
                )
            if self.adjust and self.gamma == "auto" and self.split == "valid":
                raise ValueError("--gamma auto is chosen on validation events; give a number to rank these very events")
            return
        for name in ("grounding", "adjust"):
            if getattr(self, name) is not None:
                raise ValueError(f"--{name} is of free text: --decode free")


def _is_number(text: str) -> bool:
    try:
        return 0 <= float(text) < 1000
    except ValueError:
        return False


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
