"""The model that is trained: from scratch, as it was published, or from a run; with item tokens and adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Windows
from ilrec_cli.lm import backbone, candidate_prompts, candidates, prompts
from ilrec_cli.lm.adapters import Lora
from ilrec_cli.lm.backbone import Backbone
from ilrec_cli.lm.examples import Catalogue, Examples, Layout
from ilrec_cli.lm.tasks import known, parse
from ilrec_cli.settings import Train
from ilrec_cli.stages import _inputs, _models


def open_backbone(settings: Train, data: Artifact) -> Backbone:
    """The model as it was before it met items."""
    if backbone.is_tiny(settings.backbone):
        if settings.quantize != "none":
            raise UserError(
                f"--quantize {settings.quantize}: {settings.backbone} starts from scratch, name a trained one"
            )
        size = backbone.TinySize(
            hidden_size=settings.hidden_size,
            n_layers=settings.n_layers,
            n_heads=settings.n_heads,
            inner_size=settings.inner_size,
        )
        return backbone.build_tiny(settings.backbone, size, _texts(data, settings), settings.seed)
    return backbone.load(settings.backbone, weight_dtype(settings), settings.quantize)


def weight_dtype(settings: Train) -> torch.dtype:
    """Of a pretrained model. Fully trained weights stay in float32: bfloat16 weights swallow small updates."""
    return torch.bfloat16 if settings.tuning == "lora" and settings.dtype == "bfloat16" else torch.float32


def equipped(opened: Backbone, settings: Train, ids: Artifact) -> Backbone:
    """The model with item tokens, and adapters if asked for."""
    token_ids = backbone.add_item_tokens(opened, _models.special_tokens(ids), settings.seed)
    if settings.tuning == "lora":
        backbone.add_lora(opened, _lora(settings), token_ids, settings.seed)
    if settings.gradient_checkpointing:
        _recompute(opened.model)
    return opened


def started(settings: Train, run: Artifact, ids: Artifact) -> Backbone:
    """The model of a run, trainable as it was there."""
    opened = backbone.open_saved(run.path / "model", weight_dtype(settings), trainable=True)
    if settings.tuning == "lora" and opened.base is None:
        # Adapters on a model from scratch were merged into it: new ones start from there.
        vocabulary = opened.tokenizer.get_vocab()
        token_ids = [vocabulary[token] for token in _models.special_tokens(ids)]
        backbone.add_lora(opened, _lora(settings), token_ids, settings.seed)
    if settings.gradient_checkpointing:
        _recompute(opened.model)
    return opened


def readable(settings: Train, opened: Backbone) -> Train:
    """The settings with examples of --tasks no longer than the model has positions for."""
    return replace(settings, max_length=min(settings.max_length, backbone.context(opened.model) or settings.max_length))


def refuse_unreadable(
    settings: Train, opened: Backbone, data: Artifact, items: Catalogue, layout: Layout, examples: Examples | None
) -> None:
    """`UserError` if an example, or a prompt of an evaluation with its item, has more tokens than the model positions.

    Models that learn a vector for every position fail there; the others read on, as noise.
    """
    limit = backbone.context(opened.model)
    longest = max(0 if examples is None else int(examples.sizes()[0].max()), _longest_asked(data, items, layout))
    if limit and longest > limit:
        raise UserError(
            f"--backbone {settings.backbone} reads {limit:,} tokens, a prompt and its item have up to {longest:,} over all users. "
            "Preprocess with a smaller --max-history, build shorter identifiers, or choose another backbone"
        )


def _longest_asked(data: Artifact, items: Catalogue, layout: Layout) -> int:
    """Tokens of the longest prompt for a validation item or what comes after it, a thought and the longest identifier.

    The latter are the prompts for the test item, which no training may read.
    """
    sequences, shown = _inputs.sequences(data), data.json("card.json")["max_history"]
    _, user, end = _inputs.events(data, "valid")
    end = np.concatenate([end, end + 1])
    stop = np.tile(sequences.offsets[user], 2) + end
    prompts_E = Examples(sequences, Windows(stop - np.minimum(end, shown), stop, stop), items, layout)
    return int(prompts_E.sizes()[0].max(initial=0)) + layout.thought + items.longest


def _recompute(model: Any) -> None:
    """Activations anew in the backward pass; the method has another name since transformers 5.20, and the old one warns."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _lora(settings: Train) -> Lora:
    return Lora(
        r=settings.lora_r,
        alpha=settings.lora_alpha,
        dropout=settings.lora_dropout,
        targets=settings.lora_targets,
        rank_stabilised=settings.lora_rslora,
    )


def _texts(data: Artifact, settings: Train) -> list[str]:
    """What a tokenizer from scratch is trained on: the catalogue's text where there is some, and the prompts."""
    items = data.table("items")
    columns = [items[name].to_pylist() for name in ("title", "description", "brand")]
    if settings.tasks == (candidates.TASK,):
        around = candidate_prompts.all_text()
    else:
        around = prompts.all_text(known(parse(settings.tasks)), as_input=settings.prompt == "input")
    return around + [text for column in columns for text in column if text]
