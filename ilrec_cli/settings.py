"""The settings of every command: one frozen dataclass each. A field's text is its help; `ilrec COMMAND --help` shows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ilrec_cli.config import Control, Panel, Plugin

DATA, MODEL, OPTIMISER, RUN = Panel("Data"), Panel("Model"), Panel("Optimisation"), Panel("Running")

DType = Literal["float32", "bfloat16"]
Options = Annotated[dict[str, Any], "options of the plug-in, as key=value (repeatable); listed by its own command"]


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
        _at_least(self, 0, "seed")
        if self.seed >= 2**31:
            raise ValueError(f"seed is {self.seed}, expected less than 2**31")


@dataclass(frozen=True, kw_only=True)
class OnUsers(Seeded):
    """What every stage over users takes."""

    limit_users: Annotated[int | None, "use only this many users, drawn by the seed (smoke tests)", DATA] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "limit_users")


@dataclass(frozen=True, kw_only=True)
class Preprocess(OnUsers):
    """Turn raw interaction logs into sequences and splits."""

    raw_dir: Annotated[Path | None, "folder with the raw files [WORK/DATASET/raw]", Control, DATA] = None
    source: Annotated[
        str, "format of the raw files; auto looks at their content", Plugin("datasets", ("auto",)), DATA
    ] = "auto"
    user_k: Annotated[
        int | None, "keep users with at least this many interactions [raw sources 5, processed ones 0]", DATA
    ] = None
    item_k: Annotated[
        int | None, "keep items with at least this many interactions [raw sources 5, processed ones 0]", DATA
    ] = None
    repeats: Annotated[
        Literal["first", "keep"] | None, "repeated (user, item): keep the first only, or all [by source]", DATA
    ] = None
    max_history: Annotated[int, "most recent items that any later stage shows to a model", DATA] = 20
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "max_history")
        _at_least(self, 0, "user_k", "item_k")


@dataclass(frozen=True, kw_only=True)
class BuildIds(Seeded):
    """Give every item its identifier: a short path of tokens."""

    scheme: Annotated[
        str,
        "how identifiers are made; auto is lcrec_index with --index, else rqkmeans",
        Plugin("ids", ("auto",)),
        MODEL,
    ] = "auto"
    index: Annotated[Path | None, "an LC-Rec .index.json to import", Control, DATA] = None
    encoder: Annotated[str, "item text to vectors: tfidf, or a Hugging Face encoder (folder or name)", MODEL] = "tfidf"
    text: Annotated[tuple[str, ...], "item fields that are encoded, joined in this order", DATA] = (
        "title",
        "brand",
        "categories",
        "description",
    )
    vector_size: Annotated[int, "dimensions of the TF-IDF vectors after truncated SVD", MODEL] = 64
    batch_size: Annotated[int, "items a batch, for Hugging Face encoders", Control, RUN] = 64
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"
    dtype: Annotated[DType, "number format of a Hugging Face encoder", RUN] = "float32"
    name: Annotated[str | None, "name of the result [SCHEME-HASH-sSEED]", Control, RUN] = None
    overwrite: Annotated[bool, "replace identifiers with other settings", Control, RUN] = False
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "vector_size", "batch_size")


@dataclass(frozen=True, kw_only=True)
class TrainCf(OnUsers):
    """Train a collaborative model: a baseline, and the reward model of ILRec."""

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
    name: Annotated[str | None, "name of the result [MODEL-HASH-sSEED]", Control, RUN] = None
    overwrite: Annotated[bool, "train again where the result exists", Control, RUN] = False
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "epochs", "patience", "batch_size", "max_steps")
        _at_least(self, 0, "weight_decay")
        _above(self, 0, "learning_rate", "clip")


@dataclass(frozen=True, kw_only=True)
class Train(OnUsers):
    """Fine-tune a language model on the next-item task."""

    method: Annotated[str, "training method", Plugin("methods"), MODEL] = "ilrec"
    backbone: Annotated[
        str, "Hugging Face causal LM (folder or name), or tiny-llama, tiny-qwen2: small, from scratch", MODEL
    ] = "tiny-llama"
    hidden_size: Annotated[int, "width of a tiny backbone", MODEL] = 128
    n_layers: Annotated[int, "layers of a tiny backbone", MODEL] = 4
    n_heads: Annotated[int, "attention heads of a tiny backbone", MODEL] = 4
    inner_size: Annotated[int, "feed-forward width of a tiny backbone", MODEL] = 512
    dropout: Annotated[float, "dropout on embeddings and block outputs while training", MODEL] = 0.0
    tuning: Annotated[Literal["full", "lora"], "train all weights, or adapters and the new ID tokens' rows", MODEL] = (
        "full"
    )
    lora_r: Annotated[int, "rank of the adapters", MODEL] = 8
    lora_alpha: Annotated[int, "scale of the adapters", MODEL] = 16
    lora_dropout: Annotated[float, "dropout before the adapters", MODEL] = 0.05
    lora_targets: Annotated[tuple[str, ...], "layers that get adapters", MODEL] = ("q_proj", "v_proj")
    targets: Annotated[
        Literal["auto", "last", "all"],
        "last: a prompt per target; all: a sequence per user, supervised at every item [all for tiny backbones]",
        DATA,
    ] = "auto"
    ids: Annotated[str | None, "item identifiers: name or folder [the only ones]", Control, DATA] = None
    cf: Annotated[str | None, "reward model of ILRec: name or folder [the only trained one]", Control, DATA] = None
    epochs: Annotated[int, "passes over the training data at most", OPTIMISER] = 5
    patience: Annotated[int, "stop after this many evaluations without a better validation NDCG@10", OPTIMISER] = 5
    batch_size: Annotated[int, "sequences an update, over all processes", OPTIMISER] = 128
    micro_batch: Annotated[
        int | None, "sequences a forward pass on one process [all of its share]", Control, OPTIMISER
    ] = None
    learning_rate: Annotated[
        float | None, "peak rate of AdamW [2e-3 for tiny backbones, 5e-5 full, 1e-4 LoRA]", OPTIMISER
    ] = None
    schedule: Annotated[Literal["cosine", "linear", "constant"], "of the rate after warm-up", OPTIMISER] = "cosine"
    warmup: Annotated[float, "share of the steps over which the rate rises", OPTIMISER] = 0.05
    weight_decay: Annotated[float, "decoupled, on matrices only", OPTIMISER] = 0.01
    clip: Annotated[float, "largest norm of the gradient", OPTIMISER] = 1.0
    max_steps: Annotated[int | None, "stop after this many steps (smoke tests)", OPTIMISER] = None
    valid_users: Annotated[int, "users of the fixed validation sample", OPTIMISER] = 1000
    valid_beams: Annotated[int, "beams of the validation", OPTIMISER] = 20
    loss_chunk: Annotated[
        int, "supervised positions projected to the vocabulary at a time; 0: all at once", Control, RUN
    ] = 0
    gradient_checkpointing: Annotated[bool, "recompute activations: less memory, more time", Control, RUN] = False
    log_every: Annotated[int, "steps between log lines", Control, RUN] = 20
    save_every: Annotated[int, "steps between checkpoints, besides one an epoch; 0: none", Control, RUN] = 0
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"
    dtype: Annotated[DType, "number format of the forward pass", RUN] = "float32"
    name: Annotated[str | None, "name of the run [METHOD-HASH-sSEED]", Control, RUN] = None
    resume: Annotated[bool, "go on from the last checkpoint", Control, RUN] = False
    overwrite: Annotated[bool, "start again where the run exists", Control, RUN] = False
    options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("hidden_size", "n_layers", "n_heads", "inner_size", "lora_r", "lora_alpha", "epochs", "patience", "batch_size",
                    "micro_batch", "max_steps", "valid_users", "valid_beams", "log_every")  # fmt: skip
        _at_least(self, 1, *positive)
        _above(self, 0, "learning_rate", "clip")
        _at_least(self, 0, "loss_chunk", "save_every", "weight_decay")
        for name in ("dropout", "lora_dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0 and less than 1")
        if self.hidden_size % self.n_heads or self.hidden_size // self.n_heads % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of n_heads {self.n_heads}")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other")


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnUsers):
    """Rank the full catalogue for held-out events and compute metrics."""

    run: Annotated[
        tuple[str, ...], "runs and collaborative models: names, methods or folders, comma-separated [all]", DATA
    ] = ()
    split: Annotated[Literal["test", "valid"], "which held-out items", DATA] = "test"
    beams: Annotated[int, "beams of the search over identifiers", MODEL] = 20
    normalize: Annotated[Literal["vocab", "ids", "trie"], "what a step's probabilities sum to one over", MODEL] = (
        "vocab"
    )
    batch_size: Annotated[int, "prompts a batch", Control, RUN] = 64
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"
    dtype: Annotated[DType, "number format of the model", RUN] = "float32"
    overwrite: Annotated[bool, "evaluate again where the result exists", Control, RUN] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "beams", "batch_size")


@dataclass(frozen=True, kw_only=True)
class Recommend(Common):
    """Recommend items for one user or one history."""

    dataset: Annotated[str, "name of the dataset", DATA]
    run: Annotated[str | None, "run or collaborative model: name, method or folder [the only run]", DATA] = None
    user: Annotated[str | None, "a user's original id: the whole sequence is the history", DATA] = None
    history: Annotated[tuple[str, ...], "original item ids, oldest first, comma-separated", DATA] = ()
    k: Annotated[int, "items to recommend", DATA] = 10
    hide_seen: Annotated[
        bool, "leave out the items of the history; --no-hide-seen ranks all, as evaluation does", DATA
    ] = True
    beams: Annotated[int, "beams of the search over identifiers", MODEL] = 20
    device: Annotated[str, "auto, cpu, cuda or cuda:N", Control, RUN] = "auto"
    dtype: Annotated[DType, "number format of the model", RUN] = "float32"

    def __post_init__(self) -> None:
        _at_least(self, 1, "k", "beams")
        if (self.user is None) == (not self.history):
            raise ValueError("give either --user ID or --history ID,ID,...")


@dataclass(frozen=True, kw_only=True)
class Report(Common):
    """Compare all evaluated runs of a dataset: a table here, a page with figures in a file."""

    dataset: Annotated[str, "name of the dataset", DATA]
    output: Annotated[Path | None, "the page [WORK/DATASET/report.html]", Control, RUN] = None


@dataclass(frozen=True, kw_only=True)
class Demo(Common):
    """Run every stage on a small synthetic dataset, and compare SFT with ILRec: a few minutes on two cores."""

    work: Annotated[Path, "folder that holds all artifacts", Control, RUN] = Path("ilrec-demo")
    seed: Annotated[int, "seed of the world and of every stage", RUN] = 0
    max_steps: Annotated[int | None, "stop each training after this many steps (smoke tests)", RUN] = None
    limit_users: Annotated[int | None, "use only this many users (smoke tests)", RUN] = None


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """Check this machine: versions, devices, free disk, what is missing."""


def _at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")


def _above(config: object, bound: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > bound:
            raise ValueError(f"{name} is {value}, expected more than {bound}")
