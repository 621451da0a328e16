"""The commands. Only light imports here: a stage is imported when its command runs, so `--help` costs little."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional, get_origin

import typer

from ilrec_cli import __version__, listing, plugins, presets
from ilrec_cli import config as configs
from ilrec_cli.commands import CALLERS, COMMANDS, GROUPS, PANELS
from ilrec_cli.config import Field
from ilrec_cli.errors import UserError, one_line, outside_reason
from ilrec_cli.json_log import json_line

INTERRUPTED = 130  # what Typer makes of KeyboardInterrupt
OPPOSITE = "no_"  # prefix of a switch's hidden opposite

_groups: dict[str, typer.Typer] = {}
app = typer.Typer(
    name="ilrec",
    help="LLM-based sequential recommendation: preprocess, build-ids, train-cf, train, evaluate.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 a mistake that one line explains, 130 interrupted. A bug keeps its traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_guarded(list(sys.argv[1:] if argv is None else argv)))


def invoke(argv: Sequence[str]) -> dict[str, Any]:
    """Run a command inside this process and return what `--json` would print. Errors are raised."""
    command = typer.main.get_command(app)
    result = command.main(args=list(argv), prog_name="ilrec", standalone_mode=False)
    if result == INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, dict) else {}


def _guarded(argv: list[str]) -> int:
    try:
        command = typer.main.get_command(app)
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


def _execute(command: str, flags: dict[str, Any]) -> dict[str, Any]:
    """Settings from the YAML file and the flags (which win), then the stage."""
    cls, module, _, _ = COMMANDS[command]
    file = flags.pop("config")
    values = configs.read_yaml(Path(file)) if file else {}
    options = values.pop("options", None) or {}
    if not isinstance(options, dict):
        raise UserError(f"--config {file}: options is {options!r}, expected a mapping such as {{alpha: 0.8}}")
    options = options | configs.parse_pairs(flags.pop("options", None) or [])
    for name, value in flags.items():
        if isinstance(value, list):
            values[name] = ",".join(value)
        elif value is not None:
            values[name.removeprefix(OPPOSITE)] = not value if name.startswith(OPPOSITE) else value
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


def _add_command(command: str) -> None:
    """A Typer command whose flags are the fields of the settings class; all values arrive as text and are checked once."""
    cls, _, panel, example = COMMANDS[command]

    def run(**flags: Any) -> dict[str, Any]:
        return _execute(command, flags)

    run.__doc__ = cls.__doc__
    file = typer.Option("--config", metavar="FILE", help="YAML file of settings; flags win", rich_help_panel="Running")
    by_panel = sorted(configs.fields(cls), key=lambda field: PANELS.index(field.panel or ""))
    parameters = [parameter for field in by_panel for parameter in _parameters(field)]
    parameters.append(_keyword("config", Annotated[Optional[str], file]))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    context = {"token_normalize_func": lambda token: token.replace("_", "-")}
    group, _, name = command.rpartition(" ")
    _group(group, panel).command(name, rich_help_panel=panel, context_settings=context, epilog=f"Example: {example}")(
        run
    )


def _group(name: str, panel: str) -> typer.Typer:
    """The group of a command of two words, made when it is first asked for; the top for others."""
    if not name:
        return app
    if name not in _groups:
        lists = name in plugins.FOLDERS
        shape: dict[str, Any] = {"no_args_is_help": not lists, "invoke_without_command": lists}
        _groups[name] = typer.Typer(help=GROUPS[name], cls=listing.Listing if lists else None, **shape)
        app.add_typer(_groups[name], name=name, rich_help_panel=panel)
    return _groups[name]


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


def _add_listing(folder: str, what: str) -> None:
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

    _group(folder, "Data").callback()(show_all)
    for name in plugins.names(folder):
        _group(folder, "Data").command(name, hidden=True)(_shows(folder, name))


def _shows(folder: str, name: str) -> Callable[[], None]:
    def show() -> None:
        typer.echo(listing.description(plugins.load(folder, name)))

    show.__doc__ = f"Describe {name} and its options."
    return show


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"ilrec {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def _register() -> None:
    for command in COMMANDS:
        _add_command(command)
    listings: dict[str, str] = {
        "methods": "training methods", "datasets": "dataset sources", "cf": "collaborative models", "ids": "ID schemes",
    }  # fmt: skip
    for folder, what in listings.items():
        _add_listing(folder, what)


Command = Callable[..., dict[str, Any]]
_register()
