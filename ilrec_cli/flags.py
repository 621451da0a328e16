"""Flags of the command line from the fields of a settings class. All values arrive as text and are checked once."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Optional, get_origin

import typer

from ilrec_cli import config as configs
from ilrec_cli import listing
from ilrec_cli.commands import PANELS
from ilrec_cli.config import Field

OPPOSITE = "no_"  # prefix of a switch's hidden opposite


def signature(cls: type) -> inspect.Signature:
    """What Typer reads: every field by its panel, and --config."""
    by_panel = sorted(configs.fields(cls), key=lambda field: PANELS.index(field.panel or ""))
    parameters = [parameter for field in by_panel for parameter in _parameters(field)]
    file = typer.Option("--config", metavar="FILE", help="YAML file of settings; flags win", rich_help_panel="Running")
    return inspect.Signature([*parameters, _keyword("config", Annotated[Optional[str], file])])


def _parameters(field: Field) -> list[inspect.Parameter]:
    """The flag of a field; for a switch also its hidden opposite, which undoes what a file says."""
    flag = "--" + field.name.rstrip("_").replace("_", "-")  # a name that Python reserves ends in _
    text = (
        field.help
        if field.default in (None, (), {}) or field.required
        else f"{field.help} [{listing.shown(field.default)}]"
    )
    text += " [required]" if field.required else ""
    common: dict[str, Any] = {
        "help": text.replace("[", r"\["),
        "show_default": False,
        "rich_help_panel": field.panel,
        "metavar": _metavar(field),
    }
    if field.name == "options":
        return [_keyword(field.name, Annotated[Optional[list[str]], typer.Option("--option", "-o", **common)])]
    if field.positional:
        return [_keyword(field.name, Annotated[Optional[list[str]], typer.Argument(**common | {"metavar": "A B ..."})])]
    if field.type is bool:
        short = ["-v"] if field.name == "verbose" else []
        opposite = typer.Option(f"--no-{flag[2:]}", hidden=True)
        return [
            _keyword(field.name, Annotated[Optional[bool], typer.Option(flag, *short, **common)]),
            _keyword(OPPOSITE + field.name, Annotated[Optional[bool], opposite]),
        ]
    if len(field.name) == 1:
        return [_keyword(field.name, Annotated[Optional[str], typer.Option(f"-{field.name}", flag, **common)])]
    if get_origin(field.type) is tuple:  # --run a,b and --run a --run b are the same
        return [_keyword(field.name, Annotated[Optional[list[str]], typer.Option(flag, **common)])]
    return [_keyword(field.name, Annotated[Optional[str], typer.Option(flag, **common)])]


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(field: Field) -> str:
    if field.type is bool:
        return " "
    if field.name == "options":
        return "KEY=VALUE"
    if field.choices:
        return "|".join(field.choices)
    if get_origin(field.type) is tuple:
        return "A,B,..."
    text = str(field.type)
    return next((shown for kind, shown in (("int", "N"), ("float", "X"), ("Path", "PATH")) if kind in text), "TEXT")
