"""How metrics move with a setting: runs that differ in it alone as a curve, in two of them as a heat map (Figure 5, Table 6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from ilrec_cli.stages import _html
from ilrec_cli.stages._html import GREY, Drawing
from ilrec_cli.stages._report_rows import Row

LEAST = 3  # values that make a curve
NAMED = ("backbone",)  # settings of which two values tell something, and between which nothing lies
METRIC = "ndcg@10"
PANELS = 6


class Curve(NamedTuple):
    """One metric over the values of a setting; all else is equal."""

    setting: str
    points: list[tuple[Any, float, float, float]]  # value, mean over seeds, least, most
    of: str = ""  # the method, and in what else its runs differ from those of other curves of the setting


class Plane(NamedTuple):
    """One metric over the values of two settings; all else is equal."""

    settings: tuple[str, str]
    values: dict[tuple[Any, Any], float]


def curves(rows: Sequence[Row]) -> list[Curve]:
    """Every setting with several values among runs that agree in all else, the longest curves first."""
    found = []
    for (setting,), family in _families(rows, 1):
        by_value: dict[Any, list[Row]] = {}
        for row in family:
            by_value.setdefault(_flat(row).get(setting), []).append(row)
        if len(by_value) >= (2 if setting in NAMED else LEAST):
            points = [_point(value, by_value[value]) for value in sorted(by_value, key=_order)]
            found.append((Curve(setting, points), family[0]))
    named = [curve._replace(of=_of(curve, row, found)) for curve, row in found]
    return sorted(named, key=lambda curve: (-len(curve.points), curve.setting, curve.of))


def planes(rows: Sequence[Row]) -> list[Plane]:
    """Every pair of settings with at least two values each of which all combinations were run, the largest first."""
    found = []
    for settings, family in _families(rows, 2):
        one, two = settings
        cells: dict[tuple[Any, Any], list[float]] = {}
        for row in family:
            flat = _flat(row)
            cells.setdefault((flat.get(one), flat.get(two)), []).append(row.metrics[METRIC])
        whole = _whole({key: sum(each) / len(each) for key, each in cells.items()})
        if whole:
            found.append(Plane((one, two), whole))
    return sorted(found, key=lambda plane: (-len(plane.values), plane.settings))[:PANELS]


def _whole(cells: dict[tuple[Any, Any], float]) -> dict[tuple[Any, Any], float]:
    """Without the values, one after another, that most combinations lack; {} where fewer than two by two are left.

    So a run with other values of both settings, the default's say, does not undo a grid.
    """
    while True:
        values = [{key[place] for key in cells} for place in (0, 1)]
        if min(map(len, values)) < 2:
            return {}
        if len(cells) == len(values[0]) * len(values[1]):
            return cells
        there = [(sum(key[place] == value for key in cells) / len(values[1 - place]), str(value), place, value)
                 for place in (0, 1) for value in values[place]]  # fmt: skip
        *_, place, value = min(there, key=lambda each: each[:3])
        cells = {key: each for key, each in cells.items() if key[place] != value}


def draw(name: str, rows: Sequence[Row]) -> list[Drawing]:
    """Curves and heat maps of what there is; nothing where runs do not differ so."""
    rows = [row for row in rows if row.is_lm and METRIC in row.metrics]
    drawn, maps = [], planes(rows)
    mapped = {
        setting: len({key[place] for key in plane.values})
        for plane in maps
        for place, setting in enumerate(plane.settings)
    }
    found: dict[str, list[Curve]] = {}
    for curve in curves(rows):
        if len(curve.points) > mapped.get(curve.setting, 0):  # a map says more of the same values
            found.setdefault(curve.setting, []).append(curve)
    if found:
        shown = list(found)[:PANELS]
        colours = _html.colours(dict.fromkeys(curve.of for setting in shown for curve in found[setting]))
        figure, axes = _html.grid(len(shown), 2.6)
        for axis, setting in zip(axes, shown, strict=False):
            _draw_curves(axis, found[setting], colours)
        figure.legend(
            *_html.legend(axes), loc="outside lower center", ncols=3, fontsize=8, frameon=False, labelcolor=GREY
        )
        text = f"NDCG@10 by {', '.join(shown)}"
        caption = "Runs that differ in this setting alone. Bars: 95 % intervals of one run, or the range over seeds."
        drawn.append(Drawing(f"{name}-curves", caption, text, figure))
    if maps:
        figure, axes = _html.grid(len(maps), 3.2)
        for axis, plane in zip(axes, maps, strict=False):
            _draw_plane(axis, plane)
        text = f"NDCG@10 by {'; '.join(' and '.join(plane.settings) for plane in maps)}"
        drawn.append(Drawing(f"{name}-planes", "Runs that differ in these two settings alone.", text, figure))
    return drawn


def _of(curve: Curve, row: Row, every: Sequence[tuple[Curve, Row]]) -> str:
    """What tells a curve from the others of its setting: the method, then where its other runs have another value."""
    own = _flat(row)
    others = [_flat(each) for other, each in every if other.setting == curve.setting and each.kind == row.kind]
    told = [
        key for key in own if key != curve.setting and any(_text(own[key]) != _text(each.get(key)) for each in others)
    ]
    return ", ".join([row.kind, *(f"{key}={own[key]}" for key in told)])


def _draw_curves(axis: Any, curves: Sequence[Curve], colours: dict[str, str]) -> None:
    """All curves of one setting, beside each other where they have the same values."""
    values = sorted({point[0] for curve in curves for point in curve.points}, key=_order)
    style = "o" if curves[0].setting in NAMED else "o-"
    for number, curve in enumerate(curves):
        shift = (number - (len(curves) - 1) / 2) * 0.08
        places = [values.index(point[0]) + shift for point in curve.points]
        axis.plot(
            places, [point[1] for point in curve.points], style, color=colours[curve.of], markersize=4, label=curve.of
        )
        for place, (_, _, low, high) in zip(places, curve.points, strict=True):
            axis.plot([place] * 2, [low, high], color=colours[curve.of], linewidth=1)
    axis.set_xticks(range(len(values)), [str(value) for value in values])
    axis.set_xlim(-0.5, len(values) - 0.5)
    axis.set_title(f"NDCG@10 by {curves[0].setting}", fontsize=10)


def _draw_plane(axis: Any, plane: Plane) -> None:
    ones, twos = (sorted({key[place] for key in plane.values}, key=_order) for place in (0, 1))
    grid = [[plane.values[one, two] for one in ones] for two in twos]
    low, high = min(map(min, grid)), max(map(max, grid))
    axis.imshow(grid, cmap="viridis", aspect="auto", origin="lower")
    axis.grid(visible=False)
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            ink = "black" if value - low > 0.5 * (high - low) else "white"
            axis.text(x, y, f"{value:.4f}", ha="center", va="center", fontsize=8, color=ink)
    axis.set_xticks(range(len(ones)), [str(one) for one in ones])
    axis.set_yticks(range(len(twos)), [str(two) for two in twos])
    axis.set_xlabel(plane.settings[0], fontsize=8)
    axis.set_ylabel(plane.settings[1], fontsize=8, color=GREY)
    axis.set_title("NDCG@10", fontsize=10)


def _families(rows: Sequence[Row], free: int) -> list[tuple[tuple[str, ...], list[Row]]]:
    """(settings, runs that agree in everything but these and the seed), for all that differ among the runs."""
    flats = [(row, _flat(row)) for row in rows]
    keys = sorted({key for _, flat in flats for key in flat})
    varied = [key for key in keys if len({_text(flat.get(key)) for _, flat in flats}) > 1]
    found = []
    for settings in combinations(varied, free):
        groups: dict[str, list[Row]] = {}
        for row, flat in flats:
            rest = {key: value for key, value in flat.items() if key not in settings}
            groups.setdefault(_text({**rest, "search": row.search, "inputs": row.manifest["parents"]}), []).append(row)
        found += [(settings, family) for family in groups.values()]
    return found


def _point(value: Any, rows: Sequence[Row]) -> tuple[Any, float, float, float]:
    means = [row.metrics[METRIC] for row in rows]
    ends = means if len(rows) > 1 else rows[0].intervals.get(METRIC, means)
    return value, sum(means) / len(means), min(ends), max(ends)


def _flat(row: Row) -> dict[str, Any]:
    """Every setting of a run but its seed, options among them."""
    config = dict(row.manifest["config"])
    options = config.pop("options", {})
    flat = {**config, **options}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in flat.items() if key != "seed"}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then texts; of texts that end in a number (consecutive:3) by it."""
    if isinstance(value, int | float):
        return False, float(value), ""
    stem, _, last = str(value).rpartition(":")
    return True, float(last) if last.isdigit() else 0.0, stem or str(value)
