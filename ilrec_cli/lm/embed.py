"""Texts to vectors with any Hugging Face encoder or causal LM: mean over the tokens of the last hidden state.

Shapes: B texts of a batch, S tokens, D dimensions, U different texts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ilrec_cli import devices
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.lm import hub

SHARD_SECONDS = 30  # how much work a kill can cost


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which encoder, and how it reads."""

    name: str
    dtype: str
    max_tokens: int
    batch_size: int
    device: str


def mean_pooled(
    texts: list[str], settings: Settings, *, console: Console, shards: Path | None = None,
    encoder: Encoder | None = None,
) -> np.ndarray:  # fmt: skip
    """Vectors [len(texts), D] (float32); start and end tokens count, padding does not.

    Each different text is read once, in batches of like length that do not depend on the order of `texts`, so neither
    do the vectors. A text longer than the encoder allows is cut as its tokenizer cuts; how many were is said. An
    empty text gives the vector of its special tokens, or zeros where the tokenizer adds none. With a folder of
    `shards` finished batches are kept there, and those found there are not computed again: it must belong to these
    very texts and settings. `encoder`: one that is open already.
    """
    different = sorted(set(texts))
    if console.quiet:
        hub.no_bars()
    encoder = encoder or Encoder(settings)
    tokens = encoder.tokens(different, console)
    order = sorted((row for row in range(len(different)) if tokens[row]), key=lambda row: (-len(tokens[row]), row))
    size = settings.batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    kept = _Shards(shards)
    parts: list[np.ndarray] = []
    with kept:
        for number, rows in enumerate(console.progress(batches, "encode")):
            part_BD = kept.found.get(number)
            if part_BD is None:
                part_BD = encoder.pool([tokens[row] for row in rows])
                kept.add(number, part_BD)
            parts.append(part_BD)
    vector_UD = np.zeros((len(different), parts[0].shape[1] if parts else encoder.width()), dtype=np.float32)
    if parts:
        vector_UD[order] = np.concatenate(parts)
    if not np.isfinite(vector_UD).all():
        raise UserError(
            f"encoder '{settings.name}': its numbers overflow in {settings.dtype}. Use --dtype bfloat16 or float32"
        )
    place = {text: row for row, text in enumerate(different)}
    return vector_UD[[place[text] for text in texts]]


class Encoder:
    """A model with its tokenizer, ready to pool."""

    def __init__(self, settings: Settings):
        from transformers import AutoModel

        self.place = devices.resolve(settings.device)
        if hub.folder(settings.name) is not None:
            hub.no_bars()
        with hub.explained(settings.name, "encoder"):
            self.tokenizer = hub.tokenizer(settings.name)
            model = AutoModel.from_pretrained(settings.name, dtype=devices.DTYPES[settings.dtype], use_safetensors=True)
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.model = model.to(self.place).eval()
        self.allowed = min(settings.max_tokens, self.tokenizer.model_max_length, _positions(self.model))

    def width(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    def tokens(self, texts: list[str], console: Console) -> list[list[int]]:
        """Token ids with special tokens, each text at most as long as the model reads."""
        if not texts:
            return []
        # Whatever side the tokenizer was saved with: a text's beginning is kept.
        self.tokenizer.truncation_side = "right"
        rows: list[list[int]] = list(self.tokenizer(texts, verbose=False).input_ids)
        long = [row for row, ids in enumerate(rows) if len(ids) > self.allowed]
        if long:
            console.warn(f"{len(long):,} of {len(texts):,} different texts are cut at {self.allowed} tokens")
            cut = self.tokenizer([texts[row] for row in long], truncation=True, max_length=self.allowed).input_ids
            for row, ids in zip(long, cut, strict=True):
                rows[row] = list(ids)
        return rows

    @torch.inference_mode()
    def pool(self, tokens: list[list[int]]) -> np.ndarray:
        """Mean over real tokens, in float32. Padding is on the right, where causal models do not look, and masked:
        any token id will do for it."""
        width = max(map(len, tokens))
        input_BS = torch.tensor([row + [row[-1]] * (width - len(row)) for row in tokens], device=self.place)
        length_B = torch.tensor([len(row) for row in tokens], device=self.place)
        mask_BS = (torch.arange(width, device=self.place) < length_B[:, None]).long()
        hidden_BSD = self.model(input_ids=input_BS, attention_mask=mask_BS).last_hidden_state.float()
        mean_BD = hidden_BSD.masked_fill(mask_BS[:, :, None] == 0, 0).sum(1) / length_B[:, None]
        return np.asarray(mean_BD.cpu().numpy())


def _positions(model: Any) -> int:
    """How many tokens the model has positions for.

    Tables of the RoBERTa family begin behind the padding id, so that their first rows stand for no position.
    """
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
    ]
    config = model.config.get_text_config()
    return min([*tables, getattr(config, "max_position_embeddings", None) or 1 << 30])


class _Shards:
    """Finished batches on disk, by number: written every half minute and when the block ends, however it ends."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.found: dict[int, np.ndarray] = dict(_read_shards(folder)) if folder is not None else {}
        self.fresh: dict[int, np.ndarray] = {}
        self.written = time.monotonic()

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *failure: object) -> None:
        self._write()

    def add(self, number: int, part_BD: np.ndarray) -> None:
        self.fresh[number] = part_BD
        if time.monotonic() - self.written >= SHARD_SECONDS:
            self._write()

    def _write(self) -> None:
        from safetensors.numpy import save_file

        if self.folder is None or not self.fresh:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{min(self.fresh):08}-{max(self.fresh):08}.safetensors"
        aside = target.with_suffix(".tmp")
        save_file({str(number): part for number, part in self.fresh.items()}, str(aside))
        aside.replace(target)
        self.fresh, self.written = {}, time.monotonic()


def _read_shards(folder: Path) -> Iterator[tuple[int, np.ndarray]]:
    from safetensors.numpy import load_file

    for path in sorted(folder.glob("*.safetensors")):
        for number, part_BD in load_file(path).items():
            yield int(number), part_BD
