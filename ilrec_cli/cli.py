"""The commands. Only light imports here: a stage is imported when its command runs, so `--help` costs little."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ilrec_cli import __version__, flags, listing, plugins, presets
from ilrec_cli import config as configs
from ilrec_cli.commands import CALLERS, COMMANDS, GROUPS
from ilrec_cli.errors import UserError, one_line, outside_reason
from ilrec_cli.json_log import json_line

INTERRUPTED = 130  # what Typer makes of KeyboardInterrupt
LISTINGS = {
    "methods": "training methods", "datasets": "dataset sources", "cf": "collaborative models", "ids": "ID schemes",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 a mistake that one line explains, 130 interrupted. A bug keeps its traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_guarded(list(sys.argv[1:] if argv is None else argv)))


def invoke(argv: Sequence[str]) -> dict[str, Any]:
    """Run a command inside this process and return what `--json` would print. Errors are raised."""
    command = _command_line(list(argv))
    result = command.main(args=list(argv), prog_name="ilrec", standalone_mode=False)
    if result == INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, dict) else {}


def _guarded(argv: list[str]) -> int:
    try:
        command = _command_line(argv)
        result = command.main(args=argv, prog_name="ilrec", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except UserError as error:
        return _complain(str(error))
    except typer.TyperException as error:
        line = " ".join(error.format_message().split())
        return _complain(f"{line} See: ilrec --help") if line else 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        reason = outside_reason(error)
        if reason is None:
            raise
        return _complain(reason)


def _interrupt(number: int, frame: object) -> None:
    """Let a request to end clean up, as Ctrl-C does."""
    raise KeyboardInterrupt


def _complain(message: str) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


def _execute(command: str, given: dict[str, Any]) -> dict[str, Any]:
    """Settings from the YAML file and the flags (which win), then the stage."""
    cls, module, _, _ = COMMANDS[command]
    file = given.pop("config")
    values = configs.read_yaml(Path(file)) if file else {}
    options = values.pop("options", None) or {}
    if not isinstance(options, dict):
        raise UserError(f"--config {file}: options is {options!r}, expected a mapping such as {{alpha: 0.8}}")
    options = options | configs.parse_pairs(given.pop("options", None) or [])
    for name, value in given.items():
        if isinstance(value, list):
            values[name] = ",".join(value)
        elif value is not None:
            values[name.removeprefix(flags.OPPOSITE)] = not value if name.startswith(flags.OPPOSITE) else value
    if options:
        values["options"] = options
    config: Any = configs.build(cls, presets.under(cls, values), f"ilrec {command}")
    stage = importlib.import_module(f"ilrec_cli.stages.{module}")
    result: dict[str, Any] = stage.run(config, invoke) if command in CALLERS else stage.run(config)
    if config.json and int(os.environ.get("RANK", "0")) == 0:
        print(json_line(result))
    if result.get("failed"):  # a part of what was asked for; the rest was done
        raise typer.Exit(1)
    return result


def _command_line(argv: list[str]) -> Any:
    """Every command, and the flags of the one that is called: those of all would cost each start a tenth of a second."""
    app = typer.Typer(
        name="ilrec",
        help="LLM-based sequential recommendation: preprocess, build-ids, train-cf, train, evaluate.",
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        add_completion=False,
    )
    app.callback()(_top)
    given = list(argv[1:] if argv[:1] == ["--"] else argv)
    for command in COMMANDS:
        words = command.split()
        _add_command(app, command, called=given[: len(words)] == words)
    for folder, what in LISTINGS.items():
        _add_listing(app, folder, what)
    return typer.main.get_command(app)


def _add_command(app: typer.Typer, command: str, *, called: bool) -> None:
    """A Typer command whose flags are the fields of the settings class; without them unless it is called."""
    cls, _, panel, example = COMMANDS[command]

    def run(**given: Any) -> dict[str, Any]:
        return _execute(command, given)

    run.__doc__ = cls.__doc__
    run.__signature__ = flags.signature(cls) if called else inspect.Signature()  # type: ignore[attr-defined]
    context = {"token_normalize_func": lambda token: token.replace("_", "-")}
    group, _, name = command.rpartition(" ")
    place = _group(app, group, panel) if group else app
    place.command(name, rich_help_panel=panel, context_settings=context, epilog=f"Example: {example}")(run)


def _group(app: typer.Typer, name: str, panel: str) -> typer.Typer:
    """The group of commands of two words, made when it is first asked for."""
    for known in app.registered_groups:
        if known.name == name and known.typer_instance is not None:
            return known.typer_instance
    lists = name in plugins.FOLDERS
    shape: dict[str, Any] = {"no_args_is_help": not lists, "invoke_without_command": lists}
    made = typer.Typer(help=GROUPS[name], cls=listing.Listing if lists else None, **shape)
    app.add_typer(made, name=name, rich_help_panel=panel)
    return made


def _add_listing(app: typer.Typer, folder: str, what: str) -> None:
    """`ilrec methods`, `ilrec methods ilrec`: what a folder offers, and the options of one."""

    def show(name: Annotated[Optional[str], typer.Argument(help="show the options of this one")] = None) -> None:
        typer.echo(listing.overview(folder) if name is None else listing.description(plugins.load(folder, name)))

    show.__doc__ = f"List {what}, or the options of one."
    if folder not in GROUPS:
        app.command(folder, rich_help_panel="Help")(show)
        return

    def show_all(ctx: typer.Context) -> None:
        if ctx.invoked_subcommand is None:
            show()

    group = _group(app, folder, "Data")
    group.callback()(show_all)
    for name in plugins.names(folder):
        group.command(name, hidden=True)(_shows(folder, name))


def _shows(folder: str, name: str) -> Callable[[], None]:
    def show() -> None:
        typer.echo(listing.description(plugins.load(folder, name)))

    show.__doc__ = f"Describe {name} and its options."
    return show


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ilrec {__version__}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass
