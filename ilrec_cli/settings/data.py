"""Settings of preprocess, build-ids and the data commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from ilrec_cli.config import Control, Plugin
from ilrec_cli.settings._base import (
    DATA,
    FAULT,
    FILTER,
    MODEL,
    RUN,
    SPLIT,
    TEXT,
    VECTORS,
    Common,
    Data,
    OnUsers,
    Options,
    Seeded,
    above,
    at_least,
)


@dataclass(frozen=True, kw_only=True)
class Preprocess(OnUsers):
    """Turn raw interaction logs into sequences and splits."""

    raw_dir: Annotated[
        Path | None, "folder with the raw files [WORK/DATASET/raw; known names are downloaded there]", Control, DATA
    ] = None
    source: Annotated[
        str, "format of the raw files; auto looks at their content", Plugin("datasets", ("auto",)), DATA
    ] = "auto"
    edition: Annotated[
        Literal["2014", "2018", "2023"],
        "edition of the Amazon reviews to download: Instruments, Arts, Games, Industrial, Office, Beauty, Sports, Toys, "
        "Movies, CDs (short for Musical_Instruments, Arts_Crafts_and_Sewing, Video_Games and so on), or a category's full name",
        DATA,
    ] = "2018"
    user_col: Annotated[str | None, "column of the user's id, in plain tables [a known name]", DATA] = None
    item_col: Annotated[str | None, "column of the item's id, in plain tables", DATA] = None
    time_col: Annotated[str | None, "column of the time, in plain tables [order of rows]", DATA] = None
    rating_col: Annotated[str | None, "column of the rating, in plain tables", DATA] = None
    min_rating: Annotated[float | None, "drop interactions with a lower rating, and those without one", FILTER] = None
    since: Annotated[
        str | None, "drop interactions before this date (2016-10-01) or time (in the unit of the log's file)", FILTER
    ] = None
    until: Annotated[str | None, "drop interactions on and after this date or time", FILTER] = None
    repeats: Annotated[
        Literal["first", "keep"] | None, "repeated (user, item): keep the first only, or all [by source]", FILTER
    ] = None
    user_k: Annotated[
        int | None, "keep users with at least this many interactions [raw sources 5, processed ones 0]", FILTER
    ] = None
    item_k: Annotated[
        int | None, "keep items with at least this many interactions [raw sources 5, processed ones 0]", FILTER
    ] = None
    split: Annotated[
        Literal["leave-one-out", "ratio", "time", "given"] | None,
        "hold out each user's last two items, or shares of each user's, or what comes after two dates, or as published "
        "[leave-one-out; given where the source has a split]",
        SPLIT,
        TEXT,
    ] = None
    split_ratio: Annotated[tuple[float, ...], "shares of training, validation and test, of ratio and time", SPLIT] = (
        8,
        1,
        1,
    )
    split_at: Annotated[
        tuple[str, ...],
        "dates at which validation and test begin, of time [by --split-ratio of all interactions]",
        SPLIT,
        TEXT,
    ] = ()
    candidates: Annotated[
        int, "negatives that stand with each held-out target in candidates.parquet; 0: no such file", SPLIT
    ] = 0
    max_history: Annotated[int, "most recent items that any later stage shows to a model", DATA] = 20
    on_error: Annotated[
        Literal["fail", "skip"], "a line that cannot be read ends the work, or goes to rejected.jsonl", FAULT
    ] = "fail"
    max_errors: Annotated[int | None, "with skip: end the work after more bad lines than this", FAULT] = 1000
    block_mb: Annotated[int, "MiB of text in memory at a time while reading", Control, FAULT] = 8
    memory_mb: Annotated[
        int, "MiB of interactions in memory; what is more waits in files beside the result", Control, FAULT
    ] = 4096
    clean: Annotated[
        bool, "make item text plain: no tags, entities, control characters; lists given as strings joined", TEXT
    ] = True
    max_text: Annotated[int | None, "cut every text of an item to this many characters", TEXT] = None
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "max_history", "block_mb", "max_text")
        at_least(self, 0, "user_k", "item_k", "candidates", "max_errors", "memory_mb")
        if len(self.split_ratio) != 3 or min(self.split_ratio) < 0 or not self.split_ratio[0] > 0:
            raise ValueError(
                f"split_ratio is {self.split_ratio}, expected three shares such as 8,1,1, the first above 0"
            )
        if len(self.split_at) not in (0, 2):
            raise ValueError("split_at needs two dates: where validation begins, and where test begins")


@dataclass(frozen=True, kw_only=True)
class Encoding(Seeded):
    """How items become vectors, for the schemes that quantise them."""

    encoder: Annotated[
        str, "item text to vectors: tfidf, or a Hugging Face encoder or causal LM (folder or name)", VECTORS
    ] = "tfidf"
    text: Annotated[tuple[str, ...], "item fields that are encoded, in this order", VECTORS] = (
        "title",
        "brand",
        "categories",
        "description",
    )
    pool: Annotated[
        Literal["joined", "separate"],
        "the fields in one text, or each encoded by itself and averaged (as LC-Rec does with title,description)",
        VECTORS,
    ] = "joined"
    vector_size: Annotated[int, "dimensions of the TF-IDF vectors after truncated SVD", VECTORS] = 64
    max_tokens: Annotated[int, "tokens of a text that a Hugging Face encoder reads; longer ones are cut", VECTORS] = 512
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], "number format of a Hugging Face encoder", VECTORS] = (
        "float32"
    )
    vectors: Annotated[
        Path | None, "take vectors from this file (.npy or .safetensors) instead: row = the item's source_id", VECTORS
    ] = None
    vectors_ids: Annotated[
        Path | None, "the item of each row of --vectors, by source_id or raw_id: one a line, or a JSON list", VECTORS
    ] = None
    vectors_tensor: Annotated[str | None, "tensor of a .safetensors file that holds several", VECTORS] = None
    cf: Annotated[
        str | None, "append the item embeddings of this collaborative model (name), trained on training data", VECTORS
    ] = None
    cf_weight: Annotated[float, "length of the appended embeddings, where that of the text's vectors is 1", VECTORS] = (
        1.0
    )
    batch_size: Annotated[int, "texts a batch, for Hugging Face encoders", Control, RUN] = 64
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "vector_size", "batch_size", "max_tokens")
        above(self, 0, "cf_weight")


@dataclass(frozen=True, kw_only=True)
class BuildIds(Encoding):
    """Give every item its identifier: a short path of tokens."""

    data: Data = None
    scheme: Annotated[
        str,
        "how identifiers are made; auto is lcrec_index with --index, else rqkmeans",
        Plugin("ids", ("auto",)),
        MODEL,
    ] = "auto"
    preset: Annotated[str | None, "a scheme's published settings; -o options win", Control, MODEL] = None
    index: Annotated[Path | None, "an LC-Rec .index.json to import", Control, DATA] = None
    collisions: Annotated[
        Literal["auto", "resolve", "keep", "suffix"],
        "items that share a path: moved to free ones near by, kept, or told apart by one more token; auto resolves own "
        "codes and keeps imports and titles",
        MODEL,
    ] = "auto"
    name: Annotated[str | None, "name of the result [SCHEME-HASH-sSEED]", Control, RUN] = None
    resume: Annotated[bool, "go on from the last checkpoint", Control, RUN] = False
    overwrite: Annotated[bool, "start again, and replace identifiers with other settings", Control, RUN] = False
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")


@dataclass(frozen=True, kw_only=True)
class AuditData(Common):
    """Look for what makes results on a dataset hard to trust: ties, leaks, repeats, missing text."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None


@dataclass(frozen=True, kw_only=True)
class ConvertData(Common):
    """Write a preprocessed dataset in another tool's format."""

    dataset: Annotated[str, "name of the dataset", DATA]
    to: Annotated[Literal["recbole", "lcrec", "csv"], "format to write", DATA]
    data: Data = None
    output: Annotated[Path | None, "folder to write into [WORK/DATASET/converted/FORMAT]", Control, DATA] = None
    overwrite: Annotated[bool, "replace files that are there", Control, RUN] = False


@dataclass(frozen=True, kw_only=True)
class ShowData(Common):
    """Print a few users of a preprocessed dataset, as the models will see them."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None
    n: Annotated[int, "users to show", DATA] = 3
    user: Annotated[str | None, "show this user, by original id", DATA] = None

    def __post_init__(self) -> None:
        at_least(self, 1, "n")
