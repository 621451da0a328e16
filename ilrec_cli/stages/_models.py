"""Opening what earlier stages trained: collaborative models and language models, ready to rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.artifacts import Artifact
from ilrec_cli.cf._common import Facts
from ilrec_cli.errors import UserError
from ilrec_cli.lm import backbone
from ilrec_cli.lm.examples import Catalogue, Layout
from ilrec_cli.lm.guidance import Guide
from ilrec_cli.lm.heads import open_heads
from ilrec_cli.lm.model import final_norm
from ilrec_cli.lm.rank import Ranker
from ilrec_cli.lm.tokenizer import text_paths
from ilrec_cli.lm.walk import Normalize
from ilrec_cli.stages import _inputs


def facts(data: Artifact) -> Facts:
    """What collaborative models are built from."""
    card = data.json("card.json")
    popularity = torch.from_numpy(_inputs.training_popularity(data))
    return Facts(card["statistics"]["users"], card["statistics"]["items"], card["max_history"], popularity)


def build_cf(name: str, options: dict[str, Any], about: Facts) -> tuple[Any, Any]:
    """(a new collaborative model, its configuration)."""
    plugin = plugins.load("cf", name)
    config = configs.build(plugin.Config, options, f"collaborative model '{name}'")
    return plugins.part(plugin, "model").Model(config, about), config


def open_cf(cf: Artifact, data: Artifact, device: torch.device) -> Any:
    """A trained collaborative model, for scoring."""
    from safetensors.torch import load_file

    model, _ = build_cf(cf.config["model"], cf.config["options"], facts(data))
    model.load_state_dict(load_file(str(cf.path / "model.safetensors")))
    return model.to(device).eval().requires_grad_(False)


def special_tokens(ids: Artifact) -> list[str]:
    """What identifiers add to a vocabulary: every token once, sorted; nothing where they are text."""
    if is_text(ids):
        return []
    return sorted(set(ids.table("item_ids")["tokens"].combine_chunks().flatten().to_pylist()))


def is_text(ids: Artifact) -> bool:
    """Whether an item's one token is text that a tokenizer splits, as a title, rather than a token of its own."""
    return bool(ids.json("quality.json").get("text", False))


def catalogue(ids: Artifact, tokenizer: Any) -> Catalogue:
    """Every item's token path in this tokenizer, which must know all tokens that are no text."""
    tokens: list[list[str]] = ids.table("item_ids")["tokens"].to_pylist()
    if is_text(ids):
        return Catalogue.of_paths(text_paths([text for (text,) in tokens], tokenizer), tokenizer.eos_token_id)
    unknown = sorted(set(special_tokens(ids)) - tokenizer.get_vocab().keys())
    if unknown:
        raise UserError(
            f"the model does not have {len(unknown):,} of the tokens of '{ids.name}', such as {unknown[0]}: it was trained "
            "with other identifiers. Train with these, or build its own again"
        )
    return Catalogue.build(tokens, tokenizer)


def trained_layouts(run: Artifact) -> list[Layout]:
    """How a run's histories become tokens: one for each next-item prompt that it was trained with."""
    found = run.json("layout.json")
    if "candidates" in found:
        raise UserError(
            f"'{run.name}' was trained to choose among candidates, not to rank the catalogue. "
            "Evaluate it with --candidates sum, mean or generate"
        )
    layouts = [Layout.from_dict(each) for each in found.get("templates", [found])]
    return [replace(layout, thought=found.get("thought", 0)) for layout in layouts]


def trained_layout(run: Artifact, template: int = 0) -> Layout:
    """The one of that number; `UserError` where there are fewer."""
    found = trained_layouts(run)
    if template >= len(found):
        there = "one prompt" if len(found) == 1 else f"prompts 0 to {len(found) - 1}"
        raise UserError(f"--template {template}: '{run.name}' was trained with {there}")
    return found[template]


def vectors(ids: Artifact) -> Callable[[], np.ndarray] | None:
    """What reads the vectors that identifiers were made from; None where they keep none."""
    from safetensors.numpy import load_file

    path = ids.path / "embeddings.safetensors"
    return (lambda: np.asarray(load_file(path)["embeddings"])) if path.is_file() else None


def trained_scope(run: Artifact, asked: Normalize | None) -> Normalize:
    """Over what probabilities are to sum to one: as asked, or as trained; `UserError` where that was never trained."""
    trained: Normalize = run.config.get("vocab_scope", "vocab")
    if asked == "vocab" and trained == "ids":
        raise UserError(
            f"--normalize vocab: '{run.name}' was trained with --vocab-scope ids, so its other tokens have no trained "
            "logits. Use --normalize ids or trie"
        )
    return asked or trained


def open_ranker(
    run: Artifact, ids: Artifact, data: Artifact, *, device: torch.device, dtype: torch.dtype, beams: int,
    normalize: Normalize | None = None, exit_layer: int | None = None, template: int = 0, guide: Guide | None = None,
) -> Ranker:  # fmt: skip
    """A trained language model with its catalogue and layout."""
    opened = backbone.open_saved(run.path / "model", dtype)
    items = catalogue(ids, opened.tokenizer)
    layout = trained_layout(run, template)
    popularity: np.ndarray = _inputs.training_popularity(data)
    model = opened.model.to(device).eval()
    heads = None if exit_layer is None else open_heads(run.path, final_norm(backbone.causal_lm(model)))
    return Ranker(
        model, items, layout, popularity, beams=beams, normalize=trained_scope(run, normalize), exit_layer=exit_layer,
        heads=heads, guide=guide,
    )  # fmt: skip
