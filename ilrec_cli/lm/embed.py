"""Texts to vectors with any Hugging Face encoder or causal LM: mean over the tokens of the last hidden state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ilrec_cli import devices
from ilrec_cli.console import Console
from ilrec_cli.lm import hub

MAX_TOKENS = 512


@torch.inference_mode()
def mean_pooled(
    name: str, texts: list[str], *, batch_size: int, device: str, dtype: str, console: Console
) -> np.ndarray:
    """Vectors [I, D] (float32) of the texts, batched by length; start and end tokens count, padding does not.

    Texts are cut at 512 tokens, or at what the model allows if that is less; how many were is said. An empty text
    gives the vector of its special tokens, or zeros where the tokenizer adds none.
    """
    tokenizer, model, place = _open(name, device, dtype)
    allowed = min(MAX_TOKENS, getattr(model.config, "max_position_embeddings", MAX_TOKENS) or MAX_TOKENS)
    tokens = [tokenizer(text, verbose=False).input_ids for text in texts]
    cut = sum(len(row) > allowed for row in tokens)
    if cut:
        console.warn(f"{cut:,} of {len(texts):,} texts are longer than {allowed} tokens; their ends are left out")
    order = sorted(range(len(texts)), key=lambda index: -len(tokens[index]))
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for chunk in console.progress(chunks, "encode"):
        rows = [index for index in chunk if tokens[index]]
        if rows:
            vectors[rows] = _pool(model, [tokens[index][:allowed] for index in rows], place)
    return vectors


def _open(name: str, device: str, dtype: str) -> tuple[Any, Any, torch.device]:
    from transformers import AutoModel, AutoTokenizer

    place = devices.resolve(device)
    with hub.explained(name, "encoder"):
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name, dtype=devices.DTYPES[dtype], use_safetensors=True)
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    return tokenizer, model.to(place).eval(), place


def _pool(model: Any, tokens: list[list[int]], place: torch.device) -> np.ndarray:
    """Mean over real tokens, in float32. Padding is on the right and masked, so any token id will do for it."""
    width = max(map(len, tokens))
    input_BS = torch.tensor([row + [row[-1]] * (width - len(row)) for row in tokens], device=place)
    length_B = torch.tensor([len(row) for row in tokens], device=place)
    mask_BS = (torch.arange(width, device=place) < length_B[:, None]).long()
    hidden_BSD = model(input_ids=input_BS, attention_mask=mask_BS).last_hidden_state.float()
    mean_BD = (hidden_BSD * mask_BS[:, :, None]).sum(1) / length_B[:, None]
    return mean_BD.cpu().numpy()
