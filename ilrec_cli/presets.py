"""Presets: settings under a name. They lie under a configuration file, flags and `-o`; of several the later ones win.

A plug-in has them in `PRESETS`, or with their sources in `presets.yaml` beside it; those in the `presets.yaml` of its
folder are for every plug-in there. A preset may name others that lie under it (`preset: lc-rec`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.errors import UserError, nearest

FILE = "presets.yaml"
FOLDERS = {"model": "cf", "method": "methods"}  # settings that name the plug-in whose presets `--preset` takes


class Preset(NamedTuple):
    """One line of help, and what it sets: settings of the command, and `options` of the plug-in."""

    about: str
    values: dict[str, Any]


def known(plugin: ModuleType) -> dict[str, Preset]:
    """Every preset of a plug-in by name; its own entry lies over its folder's of the same name."""
    own = Path(str(plugin.__file__)).parent
    found: dict[str, Preset] = {}
    for entries in (_read(own.parent / FILE), vars(plugin).get("PRESETS", {}), _read(own / FILE)):
        for key, values in entries.items():
            name, below = key.replace("_", "-"), found.get(key.replace("_", "-"), Preset("", {}))
            above = dict(values)
            found[name] = Preset(above.pop("about", below.about), _over(below.values, above))
    return found


def chosen(plugin: ModuleType, names: Any) -> dict[str, Any]:
    """What presets set, the later over the earlier: names with commas between, a list, or none. `-` and `_` are the same."""
    every = known(plugin)
    values: dict[str, Any] = {}
    for name in _split(names):
        if name.replace("_", "-") not in every:
            listed = f"choose from {', '.join(every)}.{nearest(name, every)}" if every else "it has none."
            raise UserError(f"{plugins.short_name(plugin)} has no preset '{name}'; {listed}".rstrip("."))
        above = dict(every[name.replace("_", "-")].values)
        values = _over(values, _over(chosen(plugin, above.pop("preset", None)), above))
    return values


def under(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a command over those of the presets that they name, if it has presets and they name any."""
    fields = {field.name: field for field in configs.fields(cls)}
    setting = next((name for name in FOLDERS if name in fields), None)
    if setting is None or not values.get("preset"):
        return values
    plugin = plugins.load(FOLDERS[setting], str(values.get(setting, fields[setting].default)))
    below = chosen(plugin, values["preset"])
    options = {key: below.pop(key) for key in below.keys() - fields.keys()}  # an option may stand among the settings
    return _over(_over({"options": options}, below), values)


def listed(plugin: ModuleType) -> list[str]:
    """A line for every preset: its name, and what it is or sets."""
    every = known(plugin)
    width = max(map(len, every), default=0)
    return [
        f"  {name:<{width}}  {preset.about or ', '.join(f'{key}={value}' for key, value in preset.values.items())}"
        for name, preset in every.items()
    ]


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both, the second winning; options one by one."""
    options = {**below.get("options", {}), **above.get("options", {})}
    return {**below, **above, **({"options": options} if options else {})}


def _split(names: Any) -> list[str]:
    parts = names if isinstance(names, list | tuple) else str(names or "").split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def _read(path: Path) -> dict[str, Any]:
    return _parsed(path, path.stat().st_mtime_ns) if path.is_file() else {}


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    """Of a version of a file; a grid of cells asks for the same one again and again. Nobody may change what comes back."""
    return configs.read_yaml(path)
