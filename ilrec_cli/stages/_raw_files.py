"""Where the raw files are: a folder of the user's, or the public host of a known dataset."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ilrec_cli import plugins
from ilrec_cli.console import Console
from ilrec_cli.datasets import _fetch, _names
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.settings import Preprocess


def source_of(config: Preprocess, raw: Path, console: Console) -> ModuleType:
    """The plug-in that reads the raw files: the one asked for, or the only one that recognises them.

    Files of a known dataset are downloaded first, where no folder was named and none is there.
    """
    if config.source != "auto" and plugins.load("datasets", config.source).GENERATED:
        return plugins.load("datasets", config.source)
    if config.raw_dir is None and _names.category(config.dataset) and not _has_files(raw):
        download(config, raw, console)
    if config.source != "auto":
        source = plugins.load("datasets", config.source)
        if not raw.is_dir():
            raise UserError(f"{raw}: no such folder. Put there: {source.EXPECTS}; or name another with --raw-dir")
        return source
    if not raw.is_dir():
        known = [*_names.ALIASES, *_names.CATEGORIES]
        raise UserError(
            f"unknown dataset '{config.dataset}': there is no folder {raw}, and no public data set of that name is known."
            f"{nearest(config.dataset, known)} Put raw files there or name their folder with --raw-dir. "
            f"Expected: {_expected()}. Without files: --source synthetic"
        )
    every = [plugins.load("datasets", name) for name in plugins.names("datasets")]
    matches = [source for source in every if not source.GENERATED and source.detect(raw)]
    if len(matches) != 1:
        names = ", ".join(map(plugins.short_name, matches)) or "none"
        raise UserError(
            f"{raw}: sources that recognise its files: {names}. Expected: {_expected()}. Choose with --source"
        )
    return matches[0]


def download(config: Preprocess, raw: Path, console: Console) -> None:
    """Fetch a known dataset's files into the folder; those that are there stay."""
    category = _names.category(config.dataset)
    source = plugins.load("datasets", f"amazon{config.edition}")
    remotes = [_fetch.Remote(name, urls) for name, urls in source.remotes(category)]
    console.say(f"Downloading {category}, edition of {config.edition}: {', '.join(remote.name for remote in remotes)}")
    with console.bytes_bar() as progress:
        _fetch.fetch(remotes, raw, progress)


def _has_files(raw: Path) -> bool:
    return raw.is_dir() and any(path.is_file() and path.suffix != ".part" for path in raw.iterdir())


def _expected() -> str:
    every = [plugins.load("datasets", name) for name in plugins.names("datasets")]
    return "; or ".join(f"{source.EXPECTS} ({plugins.short_name(source)})" for source in every if not source.GENERATED)
