"""The language model: load or build it, add item tokens, put adapters in, save it, open a saved one."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ilrec_cli.errors import UserError, nearest
from ilrec_cli.lm import hub, tokenizer

TINY = ("tiny-llama", "tiny-qwen2")
TINY_VOCABULARY = 2000
ADAPTER_BASE = "ilrec_base.json"  # beside an adapter: which base it belongs to, and how far that was resized


@dataclass(frozen=True, kw_only=True)
class TinySize:
    """Size of a model that starts from scratch."""

    hidden_size: int
    n_layers: int
    n_heads: int
    inner_size: int


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Adapters on some layers; the rows of new tokens are trained besides."""

    r: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]


@dataclass
class Backbone:
    """A causal LM with its tokenizer; `base` is where its weights came from, None for one from scratch."""

    model: Any
    tokenizer: Any
    base: str | None
    old_rows: int = 0  # rows of tokens that the base knew before item tokens were added


def is_tiny(name: str) -> bool:
    """Whether a backbone is built from scratch; a near miss of such a name is no model of the Hub."""
    plain = name.replace("_", "-")
    if plain not in TINY and plain.startswith("tiny") and "/" not in name and not Path(name).is_dir():
        raise UserError(f"unknown backbone '{name}'; from scratch there are {', '.join(TINY)}.{nearest(plain, TINY)}")
    return plain in TINY


def build_tiny(name: str, size: TinySize, texts: list[str], seed: int) -> Backbone:
    """A small random model of a real architecture, with a tokenizer trained on `texts`."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    llama = name.replace("_", "-") == "tiny-llama"
    tok = tokenizer.train(texts, TINY_VOCABULARY, adds_bos=llama)
    config_class, model_class = (LlamaConfig, LlamaForCausalLM) if llama else (Qwen2Config, Qwen2ForCausalLM)
    config = config_class(
        vocab_size=len(tok), hidden_size=size.hidden_size, intermediate_size=size.inner_size,
        num_hidden_layers=size.n_layers, num_attention_heads=size.n_heads, num_key_value_heads=size.n_heads,
        max_position_embeddings=4096, tie_word_embeddings=False,
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone(model_class(config), tok, None)


def load(name: str, dtype: torch.dtype) -> Backbone:
    """A pretrained causal LM and its tokenizer from a folder or the Hub."""
    from transformers import AutoModelForCausalLM

    folder = Path(name).expanduser()
    if folder.is_dir():
        name = str(folder.resolve())  # as it will be found again from another folder
        hub.no_bars()
    with hub.explained(name, "backbone"):
        tok = hub.tokenizer(name)
        # Only safetensors: other weight files are pickles, which can hold code.
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True)
    if tok.eos_token_id is None:
        raise UserError(f"backbone '{name}': its tokenizer has no end token, which every item path needs")
    return Backbone(model, tok, name)


def add_item_tokens(backbone: Backbone, tokens: list[str], seed: int) -> list[int]:
    """Add one token per identifier code and make rows for them; their ids.

    New rows are drawn around the mean of the old ones with the old ones' spread: with the library's default all new
    rows start nearly equal. Rows that pad a vocabulary (Qwen) are used before the matrix grows; it never shrinks.
    """
    from tokenizers import AddedToken

    tok, model = backbone.tokenizer, backbone.model
    vocabulary = tok.get_vocab()
    known = [token for token in tokens if token in vocabulary]
    if known:
        raise UserError(f"the tokenizer already has the item token '{known[0]}'; build identifiers with other tokens")
    old_rows = min(len(tok), model.get_input_embeddings().num_embeddings)
    tok.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    _grow(model, max(len(tok), model.get_input_embeddings().num_embeddings), old_rows)
    backbone.old_rows = old_rows
    ids: list[int] = tok.convert_tokens_to_ids(tokens)
    generator = torch.Generator().manual_seed(seed)
    for weight in _embedding_matrices(model):
        old = weight.detach()[:old_rows].float()
        noise = torch.randn(len(ids), weight.shape[1], generator=generator).to(weight.device)
        _set_rows(weight, ids, old.mean(0) + noise * old.std(0))
    return ids


def _grow(model: Any, rows: int, old_rows: int) -> None:
    """Make room for `rows` tokens; every row beyond the old ones is their mean, so that it is the same each time."""
    before = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(rows, mean_resizing=False)
    for weight in _embedding_matrices(model):
        _set_rows(weight, list(range(before, rows)), weight.detach()[:old_rows].float().mean(0))


@torch.no_grad()
def _set_rows(weight: torch.Tensor, rows: list[int], values: torch.Tensor) -> None:
    weight[rows] = values.to(weight.dtype)


def _embedding_matrices(model: Any) -> list[torch.Tensor]:
    """Input and output embeddings; one matrix where they are tied."""
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    return list({id(part.weight): part.weight for part in parts}.values())


def add_lora(backbone: Backbone, lora: Lora, token_ids: list[int], seed: int) -> None:
    """Freeze the model; train adapters and the rows of the given tokens, in and out, tied or not."""
    from peft import LoraConfig, get_peft_model

    model = backbone.model
    # By name for both matrices: a plain list would leave the head's rows of an untied model untrained, silently.
    rows = dict.fromkeys(_embedding_names(model), token_ids) if token_ids else None
    config = LoraConfig(
        task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=list(lora.targets), trainable_token_indices=rows,
    )  # fmt: skip
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about a name that peft still uses
            torch.manual_seed(seed)
            backbone.model = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"LoRA: {' '.join(str(error).split())[:200]}; set --lora-targets") from error


def causal_lm(model: Any) -> Any:
    """The transformers model inside, with or without adapters."""
    return model.get_base_model() if _has_adapters(model) else model


def save(backbone: Backbone, folder: Path) -> None:
    """A Hugging Face folder: the whole model, or the adapter of a model whose base has a name.

    An adapter on a model from scratch is merged, since its base could be found nowhere.
    """
    from transformers import GenerationConfig

    hub.no_bars()
    model = backbone.model
    if _has_adapters(model) and backbone.base is None:
        model = model.merge_and_unload()
    inner = causal_lm(model)
    tok = backbone.tokenizer
    inner.generation_config = GenerationConfig(
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id
    )
    if _has_adapters(model):
        model.save_pretrained(folder, save_embedding_layers=False)
        kept = {"base": backbone.base, "rows": len(_embedding_matrices(inner)[0]), "old_rows": backbone.old_rows}
        (folder / ADAPTER_BASE).write_text(json.dumps(kept) + "\n")
    else:
        model.save_pretrained(folder)
    tok.save_pretrained(folder)


def saved_tokenizer(folder: Path) -> Any:
    """The tokenizer that `save` wrote."""
    from transformers import PreTrainedTokenizerFast

    # As saved: AutoTokenizer would pick a class by the architecture, and some of those add tokens of their own.
    return PreTrainedTokenizerFast.from_pretrained(folder)


def open_saved(folder: Path, dtype: torch.dtype) -> Backbone:
    """What `save` wrote."""
    tok = saved_tokenizer(folder)
    if not (folder / ADAPTER_BASE).is_file():
        return Backbone(load(str(folder), dtype).model, tok, None)
    from peft import PeftModel

    kept = json.loads((folder / ADAPTER_BASE).read_text())
    base = load(kept["base"], dtype)
    _grow(base.model, kept["rows"], kept["old_rows"])
    return Backbone(PeftModel.from_pretrained(base.model, str(folder)), tok, kept["base"])


def _has_adapters(model: Any) -> bool:
    return type(model).__module__.startswith("peft.")


def _embedding_names(model: Any) -> list[str]:
    wanted = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if id(module) in wanted]
