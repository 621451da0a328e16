"""Models without weights: from a `config.json` that is here, or from the published sizes of well-known names."""

from __future__ import annotations

from typing import Any

import torch

from ilrec_cli.errors import UserError, nearest
from ilrec_cli.lm import hub
from ilrec_cli.lm.backbone import Backbone
from ilrec_cli.lm.guessed import GuessedTokenizer

FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings")  # fmt: skip
# name -> (architecture, tokens that its tokenizer has, the values of FIELDS); from the config.json files on the Hub
KNOWN: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "Llama-3.1-8B": ("llama", 128_256, (128_256, 4096, 14_336, 32, 32, 8, 128, False)),
    "Llama-3.2-1B": ("llama", 128_256, (128_256, 2048, 8192, 16, 32, 8, 64, True)),
    "Llama-3.2-3B": ("llama", 128_256, (128_256, 3072, 8192, 28, 24, 8, 128, True)),
    "Qwen2-0.5B": ("qwen2", 151_646, (151_936, 896, 4864, 24, 14, 2, 64, True)),
    "Qwen2.5-0.5B": ("qwen2", 151_665, (151_936, 896, 4864, 24, 14, 2, 64, True)),
    "Qwen2.5-1.5B": ("qwen2", 151_665, (151_936, 1536, 8960, 28, 12, 2, 128, True)),
    "Qwen2.5-3B": ("qwen2", 151_665, (151_936, 2048, 11_008, 36, 16, 2, 128, True)),
    "Qwen2.5-7B": ("qwen2", 151_665, (152_064, 3584, 18_944, 28, 28, 4, 128, False)),
    "Qwen3-0.6B": ("qwen3", 151_669, (151_936, 1024, 3072, 28, 16, 8, 128, True)),
    "Qwen3-1.7B": ("qwen3", 151_669, (151_936, 2048, 6144, 28, 16, 8, 128, True)),
    "Qwen3-4B": ("qwen3", 151_669, (151_936, 2560, 9728, 36, 32, 8, 128, True)),
    "Qwen3-8B": ("qwen3", 151_669, (151_936, 4096, 12_288, 36, 32, 8, 128, False)),
}


def skeleton(name: str, dtype: torch.dtype, device: str = "meta") -> Backbone:
    """The model that `name` stands for, with shapes and no weights; nothing is fetched.

    On a real device its weights are random. Where there is no tokenizer, a `GuessedTokenizer`.
    """
    from transformers import AutoModelForCausalLM

    config, tokens = _config(name)
    tokenizer = _tokenizer(name) or GuessedTokenizer(tokens, starts=config.model_type == "llama")
    with hub.explained(name, "backbone"), hub.without_reports(), torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return Backbone(model, tokenizer, name)


def _config(name: str) -> tuple[Any, int]:
    """(transformers' configuration, number of tokens): of a folder, of a copy in HF_HOME, of a known name."""
    from transformers import AutoConfig

    folder = hub.folder(name)
    plain = name.rsplit("/", 1)[-1].removeprefix("Meta-").removesuffix("-Instruct").removesuffix("-Base")
    if folder is not None or plain not in KNOWN:
        if folder is None and not name.startswith((".", "/", "~")):
            return _cached(name)
        with hub.explained(name, "backbone"):
            config = AutoConfig.from_pretrained(str(folder))
        return config, config.get_text_config().vocab_size
    architecture, tokens, values = KNOWN[plain]
    return AutoConfig.for_model(architecture, **dict(zip(FIELDS, values, strict=True))), tokens


def _cached(name: str) -> tuple[Any, int]:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone '{name}': its config.json is not here, and nothing is downloaded to plan. Give a folder that holds "
            f"it; known by name are {', '.join(KNOWN)}.{nearest(name.rsplit('/', 1)[-1], KNOWN)}"
        ) from error
    return config, config.get_text_config().vocab_size


def _tokenizer(name: str) -> Any | None:
    """The tokenizer if it is here."""
    try:
        return hub.tokenizer(name, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError, TypeError):
        return None
