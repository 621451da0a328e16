"""Settings of train-cf, tune cf and train."""

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
        str | None, "the model's tuned settings for a data set; a file, flags and -o win", Control, MODEL
    ] = None
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


@dataclass(frozen=True, kw_only=True)
class Train(OnUsers):
    """Fine-tune a language model on the next-item task."""

    data: Data = None
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
        at_least(self, 1, *positive)
        above(self, 0, "learning_rate", "clip")
        at_least(self, 0, "loss_chunk", "save_every", "weight_decay")
        for name in ("dropout", "lora_dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0 and less than 1")
        if self.hidden_size % self.n_heads or self.hidden_size // self.n_heads % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of n_heads {self.n_heads}")
        exclusive(self, "resume", "overwrite")
