"""What a figure means: how events were chosen and ranked. It is part of a metric's identity, and names its folder."""

from __future__ import annotations

from typing import Any

from ilrec_cli.settings import Evaluate
from ilrec_cli.settings.evaluate import TEXT_TOKENS

# Present for language models alone: how their list is found. Collaborative models score every item.
SEARCH = ("search", "beams", "normalize", "length_penalty", "dtype", "templates", "aggregation", "template", "exit_layer",
          "cf_guidance", "cf", "text_beams", "max_new_tokens", "grounding", "embedding", "duplicates", "adjust", "gamma")  # fmt: skip
FULL = "full catalogue"


def of_cf(
    split: str, *, limit_users: int | None = None, seed: int = 0, seen_items: str = "ranked", ranked: str = FULL
) -> dict[str, Any]:
    """The protocol of a collaborative model; `ranked`: what is."""
    rules: dict[str, Any] = {"split": split, "candidates": ranked, "seen_items": seen_items}
    if limit_users is not None:
        rules |= {"limit_users": limit_users, "users_drawn_by_seed": seed}
    return rules


def of_lm(config: Evaluate, *, exit_layer: int | None = None, template: int = 0) -> dict[str, Any]:
    """The protocol of a language model: the same, and how its list is found. `template`: which prompt, if not the first."""
    rules = of_cf(config.split, limit_users=config.limit_users, seed=config.seed, seen_items=config.seen_items)
    search = {"search": "beams", "beams": config.beams, "normalize": config.normalize, "length_penalty": 0.0,
              "dtype": config.dtype, "templates": 1, "aggregation": "none"}  # fmt: skip
    search |= {"template": template} if template else {}
    guided = {} if config.cf_guidance is None else {"cf_guidance": config.cf_guidance, "cf": config.cf}
    return rules | search | ({} if exit_layer is None else {"exit_layer": exit_layer}) | guided


def of_candidates(config: Evaluate, count: int, *, exit_layer: int | None = None, template: int = 0) -> dict[str, Any]:
    """The protocol of a language model that ranks so many candidates of each event.

    By the sum of log-probabilities divided by (tokens ** length_penalty), or by the name that it writes, greedily.
    """
    rules = of_cf(config.split, limit_users=config.limit_users, seed=config.seed, ranked=of_each_event(count))
    if config.candidates == "generate":
        rules |= {"search": "names", "text_beams": 1}
    else:
        rules |= {"search": "scores", "normalize": config.normalize,
                  "length_penalty": 1.0 if config.candidates == "mean" else 0.0}  # fmt: skip
    rules |= {"dtype": config.dtype, "templates": 1, "aggregation": "none"}
    rules |= {"template": template} if template else {}
    return rules | ({} if exit_layer is None else {"exit_layer": exit_layer})


def of_each_event(count: int) -> str:
    """What is ranked, where not the catalogue is."""
    return f"{count} of each event"


def of_text(config: Evaluate, grounding: str, embedding: str) -> dict[str, Any]:
    """The protocol of a language model that writes freely: items by their titles' distance.

    `grounding`: base, or the name of identifiers; `embedding`: what that makes of a title, in words. Length penalty 1 is
    that of `transformers.generate`, which BIGRec keeps.
    """
    rules = of_cf(config.split, limit_users=config.limit_users, seed=config.seed, seen_items=config.seen_items)
    return rules | {
        "search": "free", "text_beams": config.text_beams, "max_new_tokens": config.text_tokens, "length_penalty": 1.0,
        "dtype": config.dtype, "templates": 1, "aggregation": "none", "grounding": grounding, "embedding": embedding,
        "duplicates": "best rank",
    }  # fmt: skip


def mean_of_templates(rules: dict[str, Any], templates: int) -> dict[str, Any]:
    """The protocol of means over evaluations that differ in the prompt alone."""
    return {**rules, "templates": templates, "aggregation": "mean"}


def exact(rules: dict[str, Any], users: int, seed: int) -> dict[str, Any]:
    """The protocol that scores every item for so many users; `beams` says which search is judged by it."""
    return rules | {"search": "exact", "limit_users": users, "users_drawn_by_seed": seed}


def folder(rules: dict[str, Any]) -> str:
    """test-full, test-full-beam20-vocab, test-full-exact-beam20-vocab-n100-s0, test-full-unseen, valid-full-n500-s0,
    test-full-beam20-vocab-template3, test-full-beam20-vocab-mean17, test-full-beam20-vocab-cf0.5-sasrec,
    test-full-free-beam4-base, test-full-free-beam4-base-popularity-gauto, test-cand20, test-cand20-sum-vocab,
    test-cand20-mean-vocab-template3, test-cand20-names."""
    parts = [rules["split"], "full" if rules["candidates"] == FULL else f"cand{rules['candidates'].split()[0]}"]
    if "search" in rules:
        parts += _found(rules)
        parts += [f"template{rules['template']}"] if rules.get("template") else []
        parts += [f"cf{rules['cf_guidance']}", rules["cf"]] if "cf_guidance" in rules else []
        parts += [rules["dtype"]] if rules["dtype"] != "float32" else []
        parts += [f"layer{rules['exit_layer']}"] if "exit_layer" in rules else []
    parts += [f"mean{rules['templates']}"] if rules.get("aggregation") == "mean" else []
    parts += ["unseen"] if rules["seen_items"] == "removed" else []
    if "limit_users" in rules:
        parts += [f"n{rules['limit_users']}", f"s{rules['users_drawn_by_seed']}"]
    return "-".join(parts)


def _found(rules: dict[str, Any]) -> list[str]:
    """How a list was found."""
    search = rules["search"]
    if search == "free":
        return [search, *_of_text(rules)]
    if search == "names":
        return [search]
    if search == "scores":
        return ["mean" if rules["length_penalty"] else "sum", rules["normalize"]]
    return [*([search] if search != "beams" else []), f"beam{rules['beams']}", rules["normalize"]]


def words(rules: dict[str, Any]) -> str:
    """How lists were found, for a column of a table."""
    if "search" not in rules:
        return "every item scored"
    if rules["search"] == "free":
        return f"text of beam {rules['text_beams']}, nearest titles" + (
            f", by {rules['adjust']}" if "adjust" in rules else ""
        )
    if rules["search"] == "names":
        found = "names written"
    elif rules["search"] == "scores":
        found = f"{'mean' if rules['length_penalty'] else 'sum'} of log-probabilities, {rules['normalize']}"
    else:
        found = "every item scored" if rules["search"] == "exact" else f"beam {rules['beams']}"
        found += f", {rules['normalize']}"
    found += f", template {rules['template']}" if rules.get("template") else ""
    found += f", mean of {rules['templates']} templates" if rules.get("aggregation") == "mean" else ""
    found += f", layer {rules['exit_layer']}" if "exit_layer" in rules else ""
    found += f", {rules['cf_guidance']} with {rules['cf']}" if "cf_guidance" in rules else ""
    return found + (f", {rules['dtype']}" if rules["dtype"] != "float32" else "")


def _of_text(rules: dict[str, Any]) -> list[str]:
    """What sets free writing apart: its length, what grounds it, what adjusts it."""
    parts = [f"beam{rules['text_beams']}"]
    parts += [] if rules["max_new_tokens"] == TEXT_TOKENS else [f"tok{rules['max_new_tokens']}"]
    parts += [rules["grounding"]]
    if "adjust" in rules:
        parts += [rules["adjust"], *([rules["cf"]] if "cf" in rules else []), f"g{rules['gamma']}"]
    return parts


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """By what two protocols differ, in words; how lists are found counts only where both are of language models."""
    alone = () if "search" in one and "search" in other else SEARCH
    keys = [key for key in one | other if key not in alone and one.get(key) != other.get(key)]
    return [f"{key} {one.get(key, '-')} and {other.get(key, '-')}" for key in keys]
