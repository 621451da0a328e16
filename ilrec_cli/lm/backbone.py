"""The language model: load or build it, add item tokens, save it, open a saved one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ilrec_cli.errors import UserError, nearest
from ilrec_cli.lm import adapters, hub, item_rows, quantised, tokenizer
from ilrec_cli.lm.adapters import Lora

TINY = ("tiny-llama", "tiny-qwen2")
TINY_VOCABULARY = 2000
TINY_POSITIONS = 1 << 17  # rotary positions are computed: a model from scratch reads what it is trained on
ADAPTER_BASE = "ilrec_base.json"  # beside an adapter: which base it belongs to, and how far that was resized


@dataclass(frozen=True, kw_only=True)
class TinySize:
    """Size of a model that starts from scratch."""

    hidden_size: int
    n_layers: int
    n_heads: int
    inner_size: int


@dataclass
class Backbone:
    """A causal LM with its tokenizer; `base` is where its weights came from, None for one from scratch."""

    model: Any
    tokenizer: Any
    base: str | None
    old_rows: int = 0  # rows of tokens that the base knew before item tokens were added
    quantize: str = "none"
    version: str | None = None  # of the base's weights


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
        max_position_embeddings=TINY_POSITIONS, tie_word_embeddings=False,
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone(model_class(config), tok, None)


def load(name: str, dtype: torch.dtype, quantize: str = "none") -> Backbone:
    """A pretrained causal LM and its tokenizer from a folder or the Hub; `quantize` is none, 8bit or 4bit."""
    from transformers import AutoModelForCausalLM

    folder = hub.folder(name)
    if folder is not None:
        name = str(folder.resolve())  # as it will be found again from another folder
        hub.no_bars()
    settings = quantised.settings(quantize)
    with hub.explained(name, "backbone"), hub.without_reports():
        tok = hub.tokenizer(name)
        # Only safetensors: other weight files are pickles, which can hold code. Odd sizes are refused below, by name.
        model, found = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
        hub.refuse_incomplete(model, found)
    if tok.eos_token_id is None:
        raise UserError(f"backbone '{name}': its tokenizer has no end token, which every item path needs")
    return Backbone(model, tok, name, quantize=quantize, version=hub.version(name))


def add_item_tokens(backbone: Backbone, tokens: list[str], seed: int) -> list[int]:
    """Add one token per identifier code and make rows for them; their ids, one after another.

    Rows that pad a vocabulary (Qwen) are used before the matrix grows; it never shrinks.
    """
    from tokenizers import AddedToken

    tok, model = backbone.tokenizer, backbone.model
    vocabulary = tok.get_vocab()
    known = [token for token in tokens if token in vocabulary]
    if known:
        raise UserError(f"the tokenizer already has the item token '{known[0]}'; build identifiers with other tokens")
    backbone.old_rows = min(max(vocabulary.values()) + 1, model.get_input_embeddings().num_embeddings)
    tok.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    ids: list[int] = tok.convert_tokens_to_ids(tokens)
    # Over all tokens, not their number: ids may have gaps, and a padding token may have no row of its own yet.
    item_rows.grow(model, max(tok.get_vocab().values()) + 1, backbone.old_rows)
    if ids:
        item_rows.draw(model, ids, backbone.old_rows, seed)
    return ids


def add_lora(backbone: Backbone, lora: Lora, token_ids: list[int], seed: int) -> None:
    """Freeze the model; train adapters and the rows of the given tokens."""
    backbone.model = adapters.add(backbone.model, lora, token_ids, seed)


def causal_lm(model: Any) -> Any:
    """The transformers model inside, with or without adapters."""
    return model.get_base_model() if adapters.has_adapters(model) else model


def context(model: Any) -> int | None:
    """How many tokens a model has positions for, as its configuration says; None where it says nothing."""
    limit = getattr(causal_lm(model).config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def refuse_longer(limit: int | None, prompts: int, answer: int, advice: str, where: str = "") -> None:
    """`UserError` where prompts of that many tokens and their answers go beyond what `context` says of a model."""
    if limit is not None and prompts + answer > limit:
        raise UserError(
            f"{where}the model reads {limit:,} tokens, the longest of these prompts has {prompts + answer:,} with its answer. {advice}"
        )


def save(backbone: Backbone, folder: Path) -> None:
    """A Hugging Face folder: the whole model, or the adapter of a model whose base has a name.

    An adapter on a model from scratch is merged, since its base could be found nowhere.
    """
    hub.no_bars()
    if adapters.has_adapters(backbone.model) and backbone.base is not None:
        adapters.save(backbone.model, folder)
        rows = causal_lm(backbone.model).get_input_embeddings().num_embeddings
        kept = {"base": backbone.base, "version": backbone.version, "rows": rows, "old_rows": backbone.old_rows,
                "quantize": backbone.quantize}  # fmt: skip
        (folder / ADAPTER_BASE).write_text(json.dumps(kept) + "\n")
        backbone.tokenizer.save_pretrained(folder)
    else:
        merge(backbone)
        save_plain(backbone, folder)


def merge(backbone: Backbone) -> None:
    """Make the model a plain one, with adapters and new rows in its own weights."""
    if adapters.has_adapters(backbone.model):
        backbone.model = adapters.merged(backbone.model)
    backbone.base = None


def save_plain(backbone: Backbone, folder: Path) -> None:
    """A folder that `AutoModelForCausalLM` opens; it generates greedily unless told otherwise, whatever its base did."""
    from transformers import GenerationConfig

    tok = backbone.tokenizer
    pad = tok.eos_token_id if tok.pad_token_id is None else tok.pad_token_id
    backbone.model.generation_config = GenerationConfig(
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=pad
    )
    backbone.model.save_pretrained(folder)
    tok.save_pretrained(folder)


def saved_tokenizer(folder: Path) -> Any:
    """The tokenizer that `save` wrote."""
    from transformers import PreTrainedTokenizerFast

    # As saved: AutoTokenizer would pick a class by the architecture, and some of those add tokens of their own.
    return PreTrainedTokenizerFast.from_pretrained(folder)


def tokenizer_of(name: str, folder: Path | None = None) -> Any:
    """The tokenizer of a pretrained model, or that which `save` wrote to a folder."""
    if folder is not None:
        return saved_tokenizer(folder)
    with hub.explained(name, "backbone"):
        return hub.tokenizer(name)


def saved_base(folder: Path) -> dict[str, Any] | None:
    """What a saved adapter says of its base: name, rows of its embeddings, quantisation; None for a whole model."""
    path = folder / ADAPTER_BASE
    return dict(json.loads(path.read_text())) if path.is_file() else None


def saved_depth(folder: Path) -> int:
    """How many blocks a saved model has, read from its configuration or its base's, wherever that keeps them."""
    from transformers import AutoConfig

    kept = saved_base(folder)
    name = str(folder) if kept is None else kept["base"]
    with hub.explained(name, "backbone"):
        return int(AutoConfig.from_pretrained(name).get_text_config().num_hidden_layers)


def open_saved(
    folder: Path, dtype: torch.dtype, *, as_trained: bool = True, trainable: bool = False
) -> Backbone:  # fmt: skip
    """What `save` wrote. `as_trained=False` puts the adapter of a quantised base on the base's own weights.

    An adapter is frozen unless it is to be `trainable`.
    """
    tok = saved_tokenizer(folder)
    kept = saved_base(folder)
    if kept is None:
        return Backbone(load(str(folder), dtype).model, tok, None)
    quantize = kept.get("quantize", "none") if as_trained else "none"
    base = load(kept["base"], dtype, quantize)
    if kept.get("version", base.version) not in (None, base.version):
        raise UserError(
            f"{folder}: its adapter was trained on version {kept['version']} of {kept['base']}, whose weights are now "
            f"{base.version}. Put those back, or train again"
        )
    item_rows.grow(base.model, kept["rows"], kept["old_rows"])
    return Backbone(
        adapters.attach(base.model, folder, trainable=trainable),
        tok,
        kept["base"],
        kept["old_rows"],
        quantize,
        base.version,
    )
