"""A folder is its own registry: every package in `methods/`, `cf/`, `ids/`, `datasets/` is a plug-in.

A plug-in's `__init__.py` is light (standard library only: its `Config`, its help, what it needs); its other modules
are heavy. Names that start with an underscore are helpers that plug-ins share.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from ilrec_cli.errors import UserError, nearest

ALIASES = {"sdpo": "s_dpo", "rlvr": "grpo"}  # other names of plug-ins
FOLDERS = {"methods": "training method", "datasets": "dataset source", "cf": "collaborative model", "ids": "ID scheme"}


def names(folder: str) -> list[str]:
    """Every plug-in of a folder, sorted.

    >>> names("methods")
    ['dpo', 'grpo', 'ilrec', 'rosepo', 's_dpo', 'sft', 'sprec']
    """
    root = Path(__file__).parent / folder
    return sorted(entry.name for entry in root.iterdir() if (entry / "__init__.py").exists() and entry.name[0] != "_")


def load(folder: str, name: str) -> ModuleType:
    """The light module of a plug-in. `-` and `_` in names are the same."""
    known = names(folder)
    if canonical(name) not in known:
        raise UserError(f"unknown {FOLDERS[folder]} '{name}'; choose from {', '.join(known)}.{nearest(name, known)}")
    return importlib.import_module(f"ilrec_cli.{folder}.{canonical(name)}")


def canonical(name: str) -> str:
    """The name of its folder: `-` and `_` are the same, and some have aliases."""
    plain = name.replace("-", "_")
    return ALIASES.get(plain, plain)


def named(plugin: ModuleType, reference: str) -> Any:
    """What "module:name" stands for in a plug-in; "_module:name" is in a module that the plug-ins of its folder share."""
    module, _, name = reference.partition(":")
    home = plugin.__name__.rpartition(".")[0] if module.startswith("_") else plugin.__name__
    return getattr(importlib.import_module(f"{home}.{module}"), name)


def part(plugin: ModuleType, module: str) -> ModuleType:
    """A heavy module of a plug-in: `part(load("cf", "sasrec"), "model").Model`."""
    return importlib.import_module(f"{plugin.__name__}.{module}")


def short_name(plugin: ModuleType) -> str:
    """'sasrec' for `ilrec_cli.cf.sasrec`."""
    return plugin.__name__.rsplit(".", 1)[-1]


def summary(plugin: ModuleType) -> str:
    """The first line of the plug-in's docstring: its one line of help."""
    return (plugin.__doc__ or "").strip().splitlines()[0]
