"""LoRA: adapters on chosen layers, and the rows of new tokens. Added, saved, opened, merged.

A saved folder is PEFT's own format, rows included, so that PEFT alone opens it on a base of the right size.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ilrec_cli.errors import UserError
from ilrec_cli.lm import item_rows

WEIGHTS = "adapter_model.safetensors"
PREFIX, SUFFIX = "base_model.model.", ".token_adapter.trainable_tokens_delta"  # PEFT's name of a module's trained rows
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters on some layers; the rows of new tokens are trained besides."""

    r: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]
    rank_stabilised: bool = False  # scale alpha / sqrt(r) instead of alpha / r, arXiv 2312.03732


def add(model: Any, lora: Lora, ids: list[int], seed: int) -> Any:
    """Freeze the model; train adapters and the rows of the given tokens, in and out, tied or not."""
    from peft import LoraConfig, get_peft_model

    if ALL_LINEAR in lora.targets and len(lora.targets) > 1:
        raise UserError(f"--lora-targets {','.join(lora.targets)}: {ALL_LINEAR} stands alone")
    targets = ALL_LINEAR if lora.targets == (ALL_LINEAR,) else list(lora.targets)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets,
        use_rslora=lora.rank_stabilised,
    )  # fmt: skip
    try:
        with torch.random.fork_rng(), _calm():
            torch.manual_seed(seed)
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"LoRA: {' '.join(str(error).split())[:200]}; set --lora-targets") from error
    if targets != ALL_LINEAR:
        # Experts' names are not among them any more: PEFT adapts those as parameters.
        left = set(adapted.peft_config["default"].target_modules or ())
        _refuse_unknown([target for target in lora.targets if target in left], adapted.targeted_module_names)
    if ids:
        item_rows.install(model, ids)
    return adapted


def _refuse_unknown(targets: list[str], adapted: list[str]) -> None:
    """PEFT passes over a name without a layer as long as another one has some."""
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in adapted):
            found = ", ".join(sorted({name.rpartition(".")[2] for name in adapted}))
            raise UserError(f"--lora-targets: no layer is called {target!r}; those of the others are {found}")


def has_adapters(model: Any) -> bool:
    """Whether `model` is what `add` or `attach` returned."""
    return type(model).__module__.startswith("peft.")


def merged(model: Any) -> Any:
    """The plain model with everything trained in its own weights; `model` is used up."""
    item_rows.merge(model.get_base_model())  # first: PEFT takes embeddings with rows of their own for untied ones
    return model.merge_and_unload()


def save(model: Any, folder: Path) -> None:
    """adapter_config.json and one safetensors file: the adapters' weights and the new rows."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    plain = model.get_base_model()
    rows = item_rows.installed(plain)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor for name, tensor in tensors.items() if "lora_" in name}
    tensors |= {PREFIX + name + SUFFIX: rows_nD for name, rows_nD in rows.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, str(folder / WEIGHTS))
    model.peft_config["default"].save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    # Both names also where embeddings are tied: PEFT would leave the head of an untied model untrained otherwise.
    config |= {"inference_mode": True, "trainable_token_indices": _indices(plain) if rows else None}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def attach(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """What `save` wrote, on a base whose embeddings have their rows already; frozen unless it is to be trained on."""
    from peft import LoraConfig, get_peft_model
    from peft.utils import set_peft_model_state_dict
    from safetensors.torch import load_file

    config = LoraConfig.from_pretrained(folder)
    indices, config.trainable_token_indices = config.trainable_token_indices, None
    config.inference_mode = not trainable
    tensors = load_file(str(folder / WEIGHTS))
    rows = {name: tensors.pop(name) for name in list(tensors) if name.endswith(SUFFIX)}
    with torch.random.fork_rng(), _calm():
        adapted = get_peft_model(model, config)
    result = set_peft_model_state_dict(adapted, tensors)
    absent = [name for name in result.missing_keys if "lora_" in name]
    if indices:
        item_rows.install(model, next(iter(indices.values())))
    for name, rows_nD in item_rows.installed(model).items():
        saved = rows.pop(PREFIX + name + SUFFIX, None)
        absent += [name] if saved is None else []
        if saved is not None:
            rows_nD.detach().copy_(saved)
            rows_nD.requires_grad_(trainable)
    if absent or rows or result.unexpected_keys:
        raise UserError(
            f"{folder}: the adapter is not of this base ({(absent or [*rows, *result.unexpected_keys])[0]})"
        )
    return adapted


def attach_stock(model: Any, folder: Path, rows: int) -> Any:
    """The same by PEFT alone, on a base as it was published: what users of an exported adapter do."""
    from peft import PeftModel

    if rows > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with _calm():
        return PeftModel.from_pretrained(model, str(folder))


def trained_tokens(folder: Path) -> list[int]:
    """Ids of the tokens whose rows a saved adapter holds."""
    indices = json.loads((folder / "adapter_config.json").read_text())["trainable_token_indices"] or {}
    return list(next(iter(indices.values()), []))


def _indices(plain: Any) -> dict[str, list[int]]:
    """Last part of the module's name -> ids of its trained rows."""
    return {
        name.rsplit(".", 1)[-1]: list(range(module.first, module.first + len(module.rows_nD)))
        for name, module in plain.named_modules()
        if isinstance(module, item_rows.ItemEmbedding | item_rows.ItemHead)
    }


@contextmanager
def _calm() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that peft still uses
        yield
