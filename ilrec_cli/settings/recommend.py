"""Settings of recommend and serve, and of opening a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ilrec_cli.config import Control, Panel
from ilrec_cli.settings._base import DATA, MODEL, RUN, Common, Data, DType, at_least

LIMITS = Panel("Limits")


@dataclass(frozen=True, kw_only=True)
class OpenModel(Common):
    """A trained model, ready to recommend."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None
    run: Annotated[str | None, "run or collaborative model: name, method or folder [the only run]", DATA] = None
    beams: Annotated[
        int, "beams of the search over identifiers; as many as items are asked for, if those are more", MODEL
    ] = 20
    normalize: Annotated[
        Literal["vocab", "ids", "trie"] | None,
        "what a step's probabilities sum to one over [as trained: ids with train --vocab-scope ids, else vocab]",
        MODEL,
    ] = None
    cf_guidance: Annotated[
        float | None,
        "D3: a step of the search scores this share of the model's log-probability, and the rest of --cf's [the model alone]",
        MODEL,
    ] = None
    cf: Annotated[str | None, "collaborative model of --cf-guidance: name or folder [the only trained one]", MODEL] = (
        None
    )
    batch_size: Annotated[int, "histories that the model sees at a time", Control, RUN] = 64
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"
    dtype: Annotated[DType, "number format of the model", RUN] = "float32"

    def __post_init__(self) -> None:
        at_least(self, 1, "beams", "batch_size")
        at_least(self, 0, "cf_guidance")
        if self.cf_guidance is not None and self.cf_guidance > 1:
            raise ValueError(f"cf_guidance is {self.cf_guidance}, expected at most 1")


@dataclass(frozen=True, kw_only=True)
class Recommend(OpenModel):
    """Recommend items for one user, one history, or a file of them."""

    user: Annotated[str | None, "a user's original id: the whole sequence is the history", DATA] = None
    history: Annotated[tuple[str, ...], "original item ids, oldest first, comma-separated", DATA] = ()
    input: Annotated[
        Path | None, "many at once: .parquet or .jsonl with a column history (lists of item ids) or user", Control, DATA
    ] = None
    output: Annotated[Path | None, "where to write for --input: .parquet or .jsonl", Control, DATA] = None
    k: Annotated[int, "items to recommend", DATA] = 10
    hide_seen: Annotated[
        bool, "leave out the items of the history; --no-hide-seen ranks all, as evaluation does", DATA
    ] = True
    allow: Annotated[tuple[str, ...], "only these items: a file with one id a line, or ids, comma-separated", DATA] = ()
    deny: Annotated[tuple[str, ...], "never these items: a file with one id a line, or ids, comma-separated", DATA] = ()
    unknown: Annotated[Literal["error", "skip"], "what to do with item ids that the data do not have", DATA] = "error"
    explain: Annotated[
        bool, "show, step by step, the tokens considered, by the last and the intermediate layers", MODEL
    ] = False
    explain_item: Annotated[str | None, "the item whose steps to show [the best]", MODEL] = None
    overwrite: Annotated[bool, "replace --output where it exists", Control, RUN] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "k")
        if sum((self.user is not None, bool(self.history), self.input is not None)) != 1:
            raise ValueError("give either --user ID or --history ID,ID,... or --input FILE")
        if (self.input is None) != (self.output is None):
            raise ValueError("--input and --output belong together")
        if self.input is not None and self.explain:
            raise ValueError("--explain shows one history; it does not go with --input")
        if self.explain and self.cf_guidance is not None:
            raise ValueError("--explain shows the language model alone; it does not go with --cf-guidance")
        if self.explain_item is not None and not self.explain:
            raise ValueError("--explain-item belongs to --explain")


@dataclass(frozen=True, kw_only=True)
class Serve(OpenModel):
    """Answer recommendation requests over HTTP; no authentication, so on this machine only by default."""

    host: Annotated[str, "address to listen on", Control, RUN] = "127.0.0.1"
    port: Annotated[int, "port to listen on; 0 takes a free one", Control, RUN] = 8000
    wait_ms: Annotated[float, "how long a request waits for others to share its batch", Control, RUN] = 2.0
    stop_after: Annotated[float | None, "stop after this many seconds (smoke tests)", Control, RUN] = None
    max_queue: Annotated[int, "requests that wait at most; more are told to come back", Control, LIMITS] = 512
    max_body_kb: Annotated[int, "size of a request", Control, LIMITS] = 1024
    max_histories: Annotated[int, "histories in a request", Control, LIMITS] = 64
    max_items: Annotated[int, "items in a history, and ids in allow or deny", Control, LIMITS] = 10_000
    max_id_length: Annotated[int, "characters of an id", Control, LIMITS] = 256
    max_k: Annotated[int, "items to recommend", Control, LIMITS] = 100
    timeout: Annotated[float, "seconds until a request is given up", Control, LIMITS] = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "max_queue", "max_body_kb", "max_histories", "max_items", "max_id_length", "max_k")
        at_least(self, 0, "port", "wait_ms", "stop_after")
        if self.port > 65535:
            raise ValueError(f"port is {self.port}, expected at most 65535")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}, expected more than 0")
        if not self.wait_ms < 1000 * self.timeout:
            raise ValueError(f"wait_ms is {self.wait_ms:g}, expected less than --timeout ({self.timeout:g} s)")
