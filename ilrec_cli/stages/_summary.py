"""Ranked events -> what metrics.json says of them: means, intervals, slices. Shapes: E events, U users, G slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ilrec_cli import significance
from ilrec_cli.metrics import expected_metrics, ranking_metrics
from ilrec_cli.significance import Sums

POPULARITY = (0, 1, 5, 10, 30, 100)  # lower bounds of the slices, in training interactions of the target
HISTORY = (0, 3, 5, 10, 20)  # in items before the target
WHOLE = ""  # the slice of everything


class Judged(NamedTuple):
    """Every event, once it is ranked: what metrics and slices need."""

    user_E: np.ndarray
    rank_E: np.ndarray  # 0-based, -1: not listed
    first_E: np.ndarray  # place of the first listed item with the target's identifier, -1: none
    sharing_E: np.ndarray  # items with the target's identifier, itself included
    popularity_E: np.ndarray  # training interactions of the target
    history_E: np.ndarray  # items before the target


def values(judged: Judged, ks: Iterable[int]) -> dict[str, np.ndarray]:
    """Every metric, a value per event. recall@k is hit@k here; its mean is taken over users."""
    plain = ranking_metrics(judged.rank_E, ks)
    expected = expected_metrics(judged.first_E, judged.sharing_E, ks)
    recall = {f"recall@{k}": plain[f"hit@{k}"] for k in ks}
    return plain | recall | {f"expected_{name}": value_E for name, value_E in expected.items()}


def masks(judged: Judged) -> dict[str, dict[str, np.ndarray]]:
    """{slice: {part: mask_E}}, without empty parts."""
    cold_E, shared_E = judged.popularity_E == 0, judged.sharing_E > 1
    parts = {
        "target_popularity": _bins(judged.popularity_E, POPULARITY),
        "history_length": _bins(judged.history_E, HISTORY),
        "target": {"cold": cold_E, "warm": ~cold_E},
        "identifier": {"shared": shared_E, "own": ~shared_E},
    }
    return {name: {part: mask_E for part, mask_E in each.items() if mask_E.any()} for name, each in parts.items()}


def labelled(parts: Mapping[str, Mapping[str, np.ndarray]], events: int) -> dict[str, np.ndarray]:
    """{"slice: part": mask_E} in one dictionary, everything first."""
    flat = {f"{name}: {part}": mask_E for name, each in parts.items() for part, mask_E in each.items()}
    return {WHOLE: np.ones(events, dtype=bool), **flat}


def collect(
    value: Mapping[str, np.ndarray], user_E: np.ndarray, mask: Mapping[str, np.ndarray]
) -> tuple[list[tuple[str, str]], Sums]:
    """([(slice, metric)], their sums per user). recall@k is of all events: a user's share of hits, a mean over users."""
    keys = [(label, name) for label in mask for name in value if not label or not name.startswith("recall")]
    place = {label: place for place, label in enumerate(mask)}
    value_UC = significance.per_user(user_E, (value[name] * mask[label] for label, name in keys))
    count_UG = significance.per_user(user_E, mask.values())
    group_C = np.array([place[label] for label, _ in keys])
    recall = np.array([name.startswith("recall") for _, name in keys])
    value_UC[:, recall] /= count_UG[:, :1]
    group_C[recall] = len(mask)
    return keys, Sums(value_UC, np.concatenate([count_UG, np.ones((len(count_UG), 1))], 1), group_C)


def summary(
    judged: Judged, ks: Iterable[int], *, ambiguity: bool, more: Mapping[str, np.ndarray] | None = None,
    parts: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """{"metrics", "intervals", "slices"}; ambiguity-aware metrics where identifiers can be shared.

    `more`: further values of every event; `parts`: further slices.
    """
    every = {name: each for name, each in values(judged, ks).items() if ambiguity or not name.startswith("expected")}
    every, parts = {**every, **(more or {})}, {**masks(judged), **(parts or {})}
    flat = labelled(parts, len(judged.rank_E))
    sliced = {name: each for name, each in every.items() if name.startswith(("hit", "ndcg", *(more or ())))}
    figures = _figures(*collect(every, judged.user_E, {WHOLE: flat[WHOLE]}))
    # Means over events are taken over events, not added up by user: the last bits are those of the definition.
    figures[WHOLE]["metrics"] |= {name: float(each.mean()) for name, each in every.items() if "recall" not in name}
    by_slice = _figures(*collect(sliced, judged.user_E, flat))
    return {
        **figures[WHOLE],
        "interval": {"level": significance.LEVEL, "resamples": significance.RESAMPLES, "unit": "user"},
        "slices": {
            name: {part: {"events": int(mask_E.sum()), **by_slice[f"{name}: {part}"]} for part, mask_E in each.items()}
            for name, each in parts.items()
        },
    }  # fmt: skip


def _figures(keys: list[tuple[str, str]], sums: Sums) -> dict[str, dict[str, Any]]:
    """{slice: {"metrics": {name: mean}, "intervals": {name: [low, high]}}}."""
    mean_C, (low_C, high_C) = sums.means(), significance.intervals(sums)
    found: dict[str, dict[str, Any]] = {}
    for (label, name), mean, low, high in zip(keys, mean_C.tolist(), low_C.tolist(), high_C.tolist(), strict=True):
        figures = found.setdefault(label, {"metrics": {}, "intervals": {}})
        figures["metrics"][name] = mean
        figures["intervals"][name] = [round(low, 6), round(high, 6)]
    return found


def _bins(value_E: np.ndarray, bounds: tuple[int, ...]) -> dict[str, np.ndarray]:
    """{"1-4": mask_E, ..., "100+": mask_E}."""
    place_E = np.searchsorted(bounds, value_E, side="right") - 1
    tops = [*(bound - 1 for bound in bounds[1:]), None]
    named = [f"{low}+" if top is None else str(low) if low == top else f"{low}-{top}"
             for low, top in zip(bounds, tops, strict=True)]  # fmt: skip
    return {name: place_E == place for place, name in enumerate(named)}
