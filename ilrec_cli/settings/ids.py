"""Settings of the ids commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ilrec_cli.config import Control
from ilrec_cli.settings._base import DATA, RUN, VECTORS, Common, Data, at_least


@dataclass(frozen=True, kw_only=True)
class ReportIds(Common):
    """Judge identifiers, several side by side: a table here, a page with figures in a file."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None
    ids: Annotated[tuple[str, ...], "identifiers: names, schemes or folders, comma-separated [all]", DATA] = ()
    output: Annotated[Path | None, "the page [WORK/DATASET/ids-report.html]", Control, RUN] = None


@dataclass(frozen=True, kw_only=True)
class ExtendIds(Common):
    """Identifiers for new items from the codebooks there are; those of old items stay as they are."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Annotated[Path | None, "newer preprocessed data: folder [WORK/DATASET/data]", Control, DATA] = None
    ids: Annotated[str | None, "identifiers to extend: name, scheme or folder [the only ones]", DATA] = None
    items: Annotated[
        Path | None,
        "a table of new items instead (CSV, TSV, JSON lines, Parquet: raw_id, title, ...); writes JSON lines",
        DATA,
    ] = None
    taken: Annotated[
        tuple[Path, ...],
        "with --items: files written before, whose items keep their paths; without it separate files know nothing of "
        "each other",
        DATA,
    ] = ()
    vectors: Annotated[
        Path | None, "vectors of the new items (.npy or .safetensors), where the old ones came from a file", VECTORS
    ] = None
    vectors_ids: Annotated[Path | None, "the item of each row of --vectors: one id a line, or a JSON list", VECTORS] = (
        None
    )
    batch_size: Annotated[int, "texts a batch, for Hugging Face encoders", Control, RUN] = 64
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"
    name: Annotated[str | None, "name of the result [NAME-VERSION of the data]", Control, RUN] = None
    output: Annotated[Path | None, "with --items: the file to write [WORK/DATASET/ITEMS.ids.jsonl]", Control, RUN] = (
        None
    )
    overwrite: Annotated[bool, "replace what is there", Control, RUN] = False

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size")
        if self.items is None and self.output is not None:
            raise ValueError("--output goes with --items; newer data get identifiers with a --name")
        if self.items is None and self.taken:
            raise ValueError("--taken goes with --items: newer data know nothing of what was written to files")
        if self.items is not None and self.name is not None:
            raise ValueError("--items writes a file: --output, not --name")


@dataclass(frozen=True, kw_only=True)
class ExportIds(Common):
    """Write identifiers as an LC-Rec .index.json."""

    dataset: Annotated[str, "name of the dataset", DATA]
    data: Data = None
    ids: Annotated[str | None, "identifiers: name, scheme or folder [the only ones]", DATA] = None
    keys: Annotated[
        Literal["source_id", "raw_id", "item"],
        "what names an item: its id in the source's files, its original id, or its number in `ilrec data convert`",
        DATA,
    ] = "source_id"
    output: Annotated[Path | None, "the file [WORK/DATASET/DATASET.index.json]", Control, RUN] = None
    overwrite: Annotated[bool, "replace a file that is there", Control, RUN] = False
