"""Rows of new tokens in a model's embeddings: made, or trained alone beside a frozen matrix.

A frozen matrix with n trained rows is three blocks, "before, rows, after", that are never copied into one: looking a
token up chooses between two tables, a head multiplies block by block. (PEFT copies the whole matrix at every call.)

Shapes: V vocabulary, n new tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ilrec_cli.errors import UserError


class ItemEmbedding(nn.Module):
    """An embedding whose tokens `first` to `first + n` have the rows `rows_nD`; all others those of `old`."""

    def __init__(self, old: nn.Embedding, rows_nD: nn.Parameter, first: int):
        super().__init__()
        self.old, self.rows_nD, self.first = old, rows_nD, first

    def forward(self, input_ids: Tensor) -> Tensor:
        place, count = input_ids - self.first, len(self.rows_nD)
        is_new = (place >= 0) & (place < count)
        old = self.old(input_ids)
        new = F.embedding(place.clamp(0, count - 1), self.rows_nD).to(old.dtype)
        scale = getattr(self.old, "embed_scale", None)  # Gemma's embedding multiplies what it looks up
        new = new if scale is None else new * scale.to(new.dtype)
        return torch.where(is_new[..., None], new, old)

    @property
    def num_embeddings(self) -> int:
        return self.old.num_embeddings

    @property
    def weight(self) -> Tensor:
        return _whole(self.old.weight, self.rows_nD, self.first)


class ItemHead(nn.Module):
    """A head whose columns `first` to `first + n` have the weights `rows_nD`; all others those of `old`."""

    def __init__(self, old: nn.Linear, rows_nD: nn.Parameter, first: int):
        super().__init__()
        self.old, self.rows_nD, self.first = old, rows_nD, first

    def forward(self, hidden: Tensor) -> Tensor:
        last, weight_VD, bias_V = self.first + len(self.rows_nD), self.old.weight, self.old.bias
        blocks = (
            (weight_VD[: self.first], slice(self.first)),
            (self.rows_nD.to(weight_VD.dtype), slice(self.first, last)),
            (weight_VD[last:], slice(last, None)),
        )
        parts = [F.linear(hidden, block, None if bias_V is None else bias_V[part]) for block, part in blocks]
        return torch.cat(parts, -1)

    @property
    def weight(self) -> Tensor:
        return _whole(self.old.weight, self.rows_nD, self.first)


def head_rows(head: Any, token_C: Tensor) -> tuple[Tensor, Tensor | None]:
    """(weight_CD, bias_C or None) of some tokens of any head, for logits of these alone; gradients reach new rows."""
    if not isinstance(head, ItemHead):
        return head.weight.index_select(0, token_C), _chosen(head.bias, token_C)
    place, count = token_C - head.first, len(head.rows_nD)
    old = head.old.weight.index_select(0, token_C)
    new = head.rows_nD.index_select(0, place.clamp(0, count - 1)).to(old.dtype)
    is_new = (place >= 0) & (place < count)
    return torch.where(is_new[:, None], new, old), _chosen(head.old.bias, token_C)


def install(model: Any, ids: list[int]) -> None:
    """Put modules into a frozen model that train the rows of `ids` and nothing else; tied embeddings share them."""
    first, count = ids[0], len(ids)
    if ids != list(range(first, first + count)):
        raise ValueError(f"item tokens have ids {ids[:3]}..., expected consecutive ones")
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise UserError(
            f"LoRA: the embedding and head of {type(model).__name__} must be a plain Embedding and Linear, without adapters, "
            f"and are {type(embedding).__module__}.{type(embedding).__name__} and {type(head).__module__}.{type(head).__name__}. "
            "Adapters go on layers between them: set --lora-targets"
        )
    rows_nD = _rows(embedding.weight, first, count)
    own_nD = rows_nD if head.weight is embedding.weight else _rows(head.weight, first, count)
    model.set_input_embeddings(ItemEmbedding(embedding, rows_nD, first))
    model.set_output_embeddings(ItemHead(head, own_nD, first))
    sample = torch.arange(first, first + count, device=rows_nD.device)[:8]
    with torch.no_grad():
        # Without weights (a plan) there is nothing to compare.
        if not rows_nD.is_meta and not torch.equal(embedding(sample), model.get_input_embeddings()(sample)):
            raise UserError(
                f"LoRA: what {type(model).__name__} looks up is more than a row; use --tuning full for this backbone"
            )


def installed(model: Any) -> dict[str, nn.Parameter]:
    """Module name -> its trained rows; one entry where embeddings are tied, none where nothing is installed."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for name, module in model.named_modules():
        if isinstance(module, ItemEmbedding | ItemHead):
            found.setdefault(id(module.rows_nD), (name, module.rows_nD))
    return dict(found.values())


@torch.no_grad()
def merge(model: Any) -> None:
    """Write the trained rows into the matrices, in place, and take the modules out again."""
    parts = (
        (model.get_input_embeddings(), model.set_input_embeddings),
        (model.get_output_embeddings(), model.set_output_embeddings),
    )
    for module, put in parts:
        if isinstance(module, ItemEmbedding | ItemHead):
            ids = range(module.first, module.first + len(module.rows_nD))
            set_rows(module.old.weight, list(ids), module.rows_nD)
            put(module.old)


def grow(model: Any, rows: int, old_rows: int) -> None:
    """Make room for `rows` tokens; every row beyond the old ones is their mean, so that it is the same each time.

    A matrix that has more rows already keeps them: vocabularies may be padded (Qwen).
    """
    before = model.get_input_embeddings().num_embeddings
    if rows <= before:
        return
    model.resize_token_embeddings(rows, mean_resizing=False)
    for weight_VD in matrices(model):
        set_rows(weight_VD, list(range(before, rows)), weight_VD.detach()[:old_rows].float().mean(0))


def draw(model: Any, ids: list[int], old_rows: int, seed: int) -> None:
    """Draw the rows of `ids` around the mean of the old ones, with their spread.

    With the library's default all new rows would start nearly equal.
    """
    generator = torch.Generator().manual_seed(seed)
    for weight_VD in matrices(model):
        old = weight_VD.detach()[:old_rows].float()
        noise_nD = torch.randn(len(ids), weight_VD.shape[1], generator=generator).to(weight_VD.device)
        set_rows(weight_VD, ids, old.mean(0) + noise_nD * old.std(0))


def matrices(model: Any) -> list[Tensor]:
    """Weights of the input and output embeddings; one where they are tied."""
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    return list({id(part.weight): part.weight for part in parts}.values())


@torch.no_grad()
def set_rows(weight_VD: Tensor, rows: list[int], values: Tensor) -> None:
    """Overwrite some rows, in the matrix's own number format."""
    weight_VD[rows] = values.to(weight_VD)


def _rows(weight_VD: Tensor, first: int, count: int) -> nn.Parameter:
    """A trainable copy of some rows, in float32 at least: small updates vanish in bfloat16."""
    rows_nD = weight_VD.detach()[first : first + count]
    return nn.Parameter(rows_nD.to(torch.promote_types(rows_nD.dtype, torch.float32), copy=True))


def _whole(old_VD: Tensor, rows_nD: Tensor, first: int) -> Tensor:
    """The matrix as it is after a merge: a copy."""
    return torch.cat([old_VD[:first], rows_nD.to(old_VD.dtype), old_VD[first + len(rows_nD) :]])


def _chosen(bias_V: Tensor | None, token_C: Tensor) -> Tensor | None:
    return None if bias_V is None else bias_V.index_select(0, token_C)
