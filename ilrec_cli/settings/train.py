"""Settings of train."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

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
class Train(OnUsers):
    """Fine-tune a language model on the next-item task."""

    data: Data = None
    method: Annotated[str, "training method", Plugin("methods"), MODEL] = "ilrec"
    preset: Annotated[
        tuple[str, ...],
        "settings under a name, such as paper-8b,table3-wo-cpo: later ones win, a file, flags and -o win over all; "
        "listed by ilrec methods METHOD",
        Control,
        MODEL,
    ] = ()
    from_: Annotated[
        str | None,
        "run to start from, name or folder, instead of a backbone: its model, tokenizer, layout and identifiers; methods "
        "that fine-tune first leave that out",
        Control,
        MODEL,
    ] = None
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
    lora_targets: Annotated[
        tuple[str, ...], "layers that get adapters, by name; all-linear: every one but embeddings and head", MODEL
    ] = ("q_proj", "v_proj")
    lora_rslora: Annotated[bool, "scale adapters by alpha / sqrt(r) instead of alpha / r", MODEL] = False
    quantize: Annotated[
        Literal["none", "4bit", "8bit"], "number format of the frozen base under LoRA (needs a CUDA GPU)", MODEL
    ] = "none"
    targets: Annotated[
        Literal["auto", "last", "all"],
        "last: a prompt per target; all: a sequence per user, supervised at every item [all for tiny backbones]",
        DATA,
    ] = "auto"
    tasks: Annotated[
        tuple[str, ...],
        "tasks of a prompt per target, with so many examples (fusion:20000) or so many times their own number (fusion:0.5): "
        "next_item,text_to_item,item_to_text,fusion,item_search,preference; or candidates alone, to choose one of the items "
        "that a prompt lists [next_item in its first wording; for pretrained backbones, where items have codes and titles, all that the data allow, fusion:0.15]",
        DATA,
    ] = ()
    chat: Annotated[bool, "prompts in the chat template of an instruct model", DATA] = False
    prompt: Annotated[
        Literal["instruction", "input"],
        "input: the history in a block of its own, items in quotes: BIGRec's prompt, for titles",
        DATA,
    ] = "instruction"
    max_length: Annotated[
        int,
        "tokens of the longest example of --tasks; longer ones are left out, and counted (of candidates: refused)",
        DATA,
    ] = 2048
    vocab_scope: Annotated[
        Literal["vocab", "ids"],
        "what predictions are a softmax over: the whole vocabulary, or the tokens of identifiers and the end token",
        MODEL,
    ] = "vocab"
    probe_layers: Annotated[
        tuple[str, ...], "log the cross-entropy of these layers: numbers from 1, or all", Control, RUN
    ] = ()
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
        int | None, "positions projected to the vocabulary at a time; 0: all [about 1 GiB of logits]", Control, RUN
    ] = None
    gradient_checkpointing: Annotated[bool, "recompute activations: less memory, more time", Control, RUN] = False
    shard: Annotated[bool, "spread weights, gradients and optimiser state over the processes (FSDP2)", Control, RUN] = (
        False
    )
    track: Annotated[
        Literal["tensorboard", "wandb", "mlflow"] | None, "report to a tracker, besides log.jsonl", Control, RUN
    ] = None
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
                    "micro_batch", "max_length", "max_steps", "valid_users", "valid_beams", "log_every")  # fmt: skip
        at_least(self, 1, *positive)
        above(self, 0, "learning_rate", "clip")
        at_least(self, 0, "loss_chunk", "save_every", "weight_decay")
        for name in ("dropout", "lora_dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0 and less than 1")
        if self.hidden_size % self.n_heads or self.hidden_size // self.n_heads % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of n_heads {self.n_heads}")
        if self.quantize != "none" and self.tuning != "lora":
            raise ValueError(f"--quantize {self.quantize} goes with --tuning lora: quantised weights cannot be trained")
        if self.targets == "all" and (self.tasks or self.chat):
            given = "tasks" if self.tasks else "chat"
            raise ValueError(f"--{given} needs a prompt for every target: leave --targets all out")
        if self.prompt == "input" and (self.tasks or self.targets == "all"):
            given = "tasks" if self.tasks else "targets all"
            raise ValueError(f"--prompt input is one wording of one prompt for every target: leave --{given} out")
        exclusive(self, "resume", "overwrite")
