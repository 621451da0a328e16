"""What a folder of plug-ins offers, as `ilrec methods`, `ilrec ids` and the like print it."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from typer.core import TyperGroup

from ilrec_cli import config as configs
from ilrec_cli import plugins, presets
from ilrec_cli.errors import UserError, nearest


class Listing(TyperGroup):
    """A folder of plug-ins that has commands too: `ilrec ids` lists, `ilrec ids rqkmeans` describes."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or the plug-in's description; `UserError` names what there is."""
        folder, name = self.name or "", cmd_name.replace("-", "_")
        found = super().get_command(ctx, name)
        if found is None:
            schemes = plugins.names(folder)
            every = [*schemes, *(each for each in self.commands if each not in schemes)]
            raise UserError(f"ilrec {folder}: no '{cmd_name}'; choose from {', '.join(every)}.{nearest(name, every)}")
        return found


def overview(folder: str) -> str:
    """A line for every plug-in."""
    lines = [f"{each:<14} {plugins.summary(plugins.load(folder, each))}" for each in plugins.names(folder)]
    return "\n".join([*lines, "", f"Options of one: ilrec {folder} NAME"])


def description(plugin: ModuleType) -> str:
    """What a plug-in is, and every option with its default and meaning."""
    fields: list[configs.Field] = configs.fields(vars(plugin)["Config"])
    lines = [inspect.getdoc(plugin) or "", "", "Options (-o key=value):" if fields else "No options."]
    for field in fields:
        choices = f" ({'|'.join(field.choices)})" if field.choices else ""
        lines.append(f"  {field.name + '=' + shown(field.default):<32} {field.help}{choices}")
    rows = presets.listed(plugin)
    return "\n".join([*lines, "", "Presets (--preset NAME,NAME):", *rows] if rows else lines)


def shown(value: Any) -> str:
    """A default as a user would write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
