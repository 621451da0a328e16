"""Where the raw files are: a folder of the user's, or the public host of a known dataset."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ilrec_cli import plugins
from ilrec_cli.console import Console
from ilrec_cli.datasets import _fetch, _names
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.settings import Preprocess

COLUMNS = ("user_col", "item_col", "time_col", "rating_col")


def find(config: Preprocess, work: Path, console: Console) -> tuple[ModuleType, Path]:
    """(source, folder of its files): what was asked for, or the only source that recognises the files.

    Files of a known dataset are downloaded first, where no folder was named and the user has put none.
    """
    raw = config.raw_dir or work / "raw"
    if config.source != "auto" and plugins.load("datasets", config.source).GENERATED:
        return plugins.load("datasets", config.source), raw
    edition = config.source.removeprefix("amazon") if config.source.startswith("amazon") else config.edition
    wanted = config.source in ("auto", f"amazon{edition}") and _names.category(config.dataset)
    if wanted and config.raw_dir is None and not _has_files(raw):
        source = plugins.load("datasets", f"amazon{edition}")
        download(config, source, raw / edition, console)
        return source, raw / edition
    if config.source == "auto" and any(getattr(config, name) is not None for name in COLUMNS):
        return plugins.load("datasets", "table"), _there(raw, plugins.load("datasets", "table"))
    if config.source != "auto":
        source = plugins.load("datasets", config.source)
        return source, _there(raw, source)
    if not raw.is_dir():
        known = [*_names.ALIASES, *_names.CATEGORIES]
        raise UserError(
            f"unknown dataset '{config.dataset}': there is no folder {raw}, and no public data set of that name is known."
            f"{nearest(config.dataset, known)} Put raw files there or name their folder with --raw-dir; formats: "
            "ilrec datasets. Without files: --source synthetic"
        )
    return _recognise(config, raw), raw


def download(config: Preprocess, source: ModuleType, folder: Path, console: Console) -> None:
    """Fetch a known dataset's files into the folder; those that are there stay."""
    remotes = [_fetch.Remote(name, urls) for name, urls in source.remotes(_names.category(config.dataset))]
    missing = [remote.name for remote in remotes if not (folder / remote.name).is_file()]
    if missing:
        console.say(f"Downloading the edition of {folder.name} into {folder}: {', '.join(missing)}")
    with console.bytes_bar() as progress:
        _fetch.fetch(remotes, folder, progress)


def _recognise(config: Preprocess, raw: Path) -> ModuleType:
    every = [plugins.load("datasets", name) for name in plugins.names("datasets")]
    matches = [source for source in every if not source.GENERATED and source.detect(raw)]
    editions = [source for source in matches if plugins.short_name(source) == f"amazon{config.edition}"]
    if len(matches) > 1 and editions and all(plugins.short_name(source).startswith("amazon") for source in matches):
        matches = editions
    if len(matches) == 1:
        return matches[0]
    files = sorted(path.name for path in raw.iterdir() if path.is_file())
    listed = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "") or "no file"
    found = (
        f"several sources read them: {', '.join(map(plugins.short_name, matches))}"
        if matches
        else "no source recognises them"
    )
    raise UserError(f"{raw} holds {listed}; {found}. Choose with --source; formats: ilrec datasets NAME, docs/data.md")


def _there(raw: Path, source: ModuleType) -> Path:
    if not raw.is_dir():
        raise UserError(f"{raw}: no such folder. Put there: {source.EXPECTS}; or name another with --raw-dir")
    return raw


def _has_files(raw: Path) -> bool:
    """Whether the user has put files there; downloads lie in folders of their own, one an edition."""
    return raw.is_dir() and any(path.is_file() for path in raw.iterdir())
