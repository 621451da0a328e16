"""What a figure means: how events were chosen and ranked. It is part of a metric's identity, and names its folder."""

from __future__ import annotations

from typing import Any

from ilrec_cli.settings import Evaluate

# Present for language models alone: how their list is found. Collaborative models score every item.
SEARCH = (
    "search",
    "beams",
    "normalize",
    "length_penalty",
    "dtype",
    "templates",
    "aggregation",
    "template",
    "exit_layer",
)


def of_cf(split: str, *, limit_users: int | None = None, seed: int = 0, seen_items: str = "ranked") -> dict[str, Any]:
    """The protocol of a collaborative model."""
    rules: dict[str, Any] = {"split": split, "candidates": "full catalogue", "seen_items": seen_items}
    if limit_users is not None:
        rules |= {"limit_users": limit_users, "users_drawn_by_seed": seed}
    return rules


def of_lm(config: Evaluate, *, exit_layer: int | None = None, template: int = 0) -> dict[str, Any]:
    """The protocol of a language model: the same, and how its list is found. `template`: which prompt, if not the first."""
    rules = of_cf(config.split, limit_users=config.limit_users, seed=config.seed, seen_items=config.seen_items)
    search = {"search": "beams", "beams": config.beams, "normalize": config.normalize, "length_penalty": 0.0,
              "dtype": config.dtype, "templates": 1, "aggregation": "none"}  # fmt: skip
    search |= {"template": template} if template else {}
    return rules | search | ({} if exit_layer is None else {"exit_layer": exit_layer})


def mean_of_templates(rules: dict[str, Any], templates: int) -> dict[str, Any]:
    """The protocol of means over evaluations that differ in the prompt alone."""
    return {**rules, "templates": templates, "aggregation": "mean"}


def exact(rules: dict[str, Any], users: int, seed: int) -> dict[str, Any]:
    """The protocol that scores every item for so many users; `beams` says which search is judged by it."""
    return rules | {"search": "exact", "limit_users": users, "users_drawn_by_seed": seed}


def folder(rules: dict[str, Any]) -> str:
    """test-full, test-full-beam20-vocab, test-full-exact-beam20-vocab-n100-s0, test-full-unseen, valid-full-n500-s0,
    test-full-beam20-vocab-template3, test-full-beam20-vocab-mean17."""
    parts = [rules["split"], "full"]
    if "search" in rules:
        parts += ["exact"] if rules["search"] == "exact" else []
        parts += [f"beam{rules['beams']}", rules["normalize"]]
        parts += [f"template{rules['template']}"] if rules.get("template") else []
        parts += [rules["dtype"]] if rules["dtype"] != "float32" else []
        parts += [f"layer{rules['exit_layer']}"] if "exit_layer" in rules else []
    parts += [f"mean{rules['templates']}"] if rules.get("aggregation") == "mean" else []
    parts += ["unseen"] if rules["seen_items"] == "removed" else []
    if "limit_users" in rules:
        parts += [f"n{rules['limit_users']}", f"s{rules['users_drawn_by_seed']}"]
    return "-".join(parts)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """By what two protocols differ, in words; how lists are found counts only where both are of language models."""
    alone = () if "search" in one and "search" in other else SEARCH
    keys = [key for key in one | other if key not in alone and one.get(key) != other.get(key)]
    return [f"{key} {one.get(key, '-')} and {other.get(key, '-')}" for key in keys]
