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
FULL = "full catalogue"


def of_cf(
    split: str,
    *,
    limit_users: int | None = None,
    seed: int = 0,
    seen_items: str = "ranked",
    candidates: int | None = None,
) -> dict[str, Any]:
    """The protocol of a collaborative model; `candidates`: of each event, where they alone are ranked."""
    ranked = FULL if candidates is None else f"{candidates} of each event"
    rules: dict[str, Any] = {"split": split, "candidates": ranked, "seen_items": seen_items}
    if limit_users is not None:
        rules |= {"limit_users": limit_users, "users_drawn_by_seed": seed}
    return rules


def of_lm(config: Evaluate, *, exit_layer: int | None = None, candidates: int | None = None) -> dict[str, Any]:
    """The protocol of a language model: the same, and how its list is found."""
    rules = of_cf(config.split, limit_users=config.limit_users, seed=config.seed, seen_items=config.seen_items,
                  candidates=candidates)  # fmt: skip
    search = {"search": "beams", "beams": config.beams, "normalize": config.normalize, "length_penalty": 0.0}
    if config.candidates == "generate":
        search = {"search": "free text", "beams": 1, "normalize": config.normalize, "template": config.template}
    elif config.candidates is not None:  # the sum of log-probabilities divided by (tokens ** length_penalty)
        search = {"search": "candidates scored", "normalize": config.normalize, "template": config.template,
                  "length_penalty": 1.0 if config.candidates == "mean" else 0.0}  # fmt: skip
    search |= {"dtype": config.dtype, "templates": 1, "aggregation": "none"}
    return rules | search | ({} if exit_layer is None else {"exit_layer": exit_layer})


def exact(rules: dict[str, Any], users: int, seed: int) -> dict[str, Any]:
    """The protocol that scores every item for so many users; `beams` says which search is judged by it."""
    return rules | {"search": "exact", "limit_users": users, "users_drawn_by_seed": seed}


def folder(rules: dict[str, Any]) -> str:
    """test-full, test-full-beam20-vocab, test-full-exact-beam20-vocab-n100-s0, test-full-unseen, valid-full-n500-s0,
    test-cand20, test-cand20-sum-vocab, test-cand20-mean-vocab-template3, test-cand20-text1-vocab."""
    parts = [rules["split"], "full" if rules["candidates"] == FULL else f"cand{rules['candidates'].split()[0]}"]
    if "search" in rules:
        parts += ["exact"] if rules["search"] == "exact" else []
        parts += [_search(rules), rules["normalize"]]
        parts += [f"template{rules['template']}"] if rules.get("template") else []
        parts += [rules["dtype"]] if rules["dtype"] != "float32" else []
        parts += [f"layer{rules['exit_layer']}"] if "exit_layer" in rules else []
    parts += ["unseen"] if rules["seen_items"] == "removed" else []
    if "limit_users" in rules:
        parts += [f"n{rules['limit_users']}", f"s{rules['users_drawn_by_seed']}"]
    return "-".join(parts)


def _search(rules: dict[str, Any]) -> str:
    if rules["search"] == "candidates scored":
        return "mean" if rules["length_penalty"] else "sum"
    return f"{'text' if rules['search'] == 'free text' else 'beam'}{rules['beams']}"


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """By what two protocols differ, in words; how lists are found counts only where both are of language models."""
    alone = () if "search" in one and "search" in other else SEARCH
    keys = [key for key in one | other if key not in alone and one.get(key) != other.get(key)]
    return [f"{key} {one.get(key, '-')} and {other.get(key, '-')}" for key in keys]
