"""Where a stage finds its inputs: by dataset and work folder, by name, by plug-in, or by path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ilrec_cli import artifacts, folders, plugins
from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.histories import Sequences
from ilrec_cli.schemas import KINDS


def flags(config: Any) -> str:
    """What every next command needs to find the same things: --dataset, and --work where it is not the default."""
    default = Path("ilrec-work")
    return f"--dataset {config.dataset}" + ("" if Path(config.work) == default else f" --work {config.work}")


def dataset_dir(config: Any) -> Path:
    """WORK/DATASET."""
    return Path(config.work) / folders.plain_name(config.dataset, "--dataset")


def read_data(config: Any) -> Artifact:
    """The preprocessed data of the dataset."""
    if config.data is not None:
        return artifacts.read(config.data, "data")
    folder = dataset_dir(config) / "data"
    if not artifacts.exists(folder):
        known = sorted(path.parent.name for path in Path(config.work).glob("*/data") if artifacts.exists(path))
        hint = f"{nearest(config.dataset, known)} Datasets in {config.work}: {', '.join(known)}." if known else ""
        raise UserError(f"no preprocessed data at {folder}.{hint} Run: ilrec preprocess {flags(config)}")
    return artifacts.read(folder, "data")


def read_ids(config: Any, data: Artifact, selector: str | None) -> Artifact:
    """The item identifiers that `selector` names (folder, name or scheme), or the only ones; made from this data."""
    ids = find_ids(config, selector)
    ids.require_parent(data, "data")
    return ids


def find_ids(config: Any, selector: str | None) -> Artifact:
    """The item identifiers that `selector` names, or the only ones, of whatever version of the data."""
    return artifacts.read(_select(config, dataset_dir(config) / "ids", selector, "ids", "scheme"), "ids")


@contextmanager
def output_file(target: Path, *, overwrite: bool) -> Iterator[None]:
    """Make the folder of a file that the block writes, and remove it if the block fails.

    `UserError` where the file is there and is not to be replaced.
    """
    if target.is_dir():
        raise UserError(f"--output {target} is a folder; name a file in it")
    if target.exists() and not overwrite:
        raise UserError(f"{target} is there already. Choose another --output, or --overwrite it")
    with ExitStack() as stack:
        try:
            stack.enter_context(folders.made(target.parent))
        except OSError as error:
            raise UserError(
                f"{target}: the folder cannot be made ({error.strerror}). Choose another --output"
            ) from error
        yield


def read_cf(config: Any, data: Artifact, selector: str | None) -> Artifact:
    """The collaborative model that `selector` names, or the only one that was trained (popularity aside)."""
    cf = artifacts.read(_select(config, dataset_dir(config) / "cf", selector, "cf", "model"), "cf")
    cf.require_parent(data, "data")
    return cf


def finished(root: Path, kind: str) -> dict[str, Path]:
    """Name -> folder of every finished artifact of a kind."""
    inside = "train" if kind in ("cf", "run") else "."
    folders = {path.name: path / inside for path in sorted(root.glob("[!.]*")) if path.is_dir()}
    return {name: path for name, path in folders.items() if artifacts.exists(path)}


def _select(config: Any, root: Path, selector: str | None, kind: str, plugin_key: str) -> Path:
    what, command = KINDS[kind]
    found = finished(root, kind)
    if selector is None:
        names = [name for name in found if not _sanity(found[name], kind)]
        if not names:
            raise UserError(f"no {what} in {root}. Run: {command} {flags(config)}")
        if len(names) > 1:
            raise UserError(f"{what}: {root} holds several: {', '.join(names)}. Choose one with --{kind}")
        return found[names[0]]
    return pick(root, found, selector, kind, plugin_key)


def pick(root: Path, found: dict[str, Path], selector: str, kind: str, plugin_key: str) -> Path:
    """The one artifact that a folder, a name or a plug-in's name stands for."""
    what, command = KINDS[kind]
    folder = Path(selector)
    if "/" in selector or folder.is_absolute():
        inside = folder / "train"
        return inside if artifacts.exists(inside) else folder
    if selector in found:
        return found[selector]
    made_by = [name for name in found if read_config(found[name]).get(plugin_key) == plugins.canonical(selector)]
    if len(made_by) == 1:
        return found[made_by[0]]
    if made_by:
        raise UserError(f"{what}: '{selector}' made several in {root}: {', '.join(made_by)}. Give the name in full")
    listed = f"There are: {', '.join(found)}." if found else "There is none yet."
    raise UserError(f"no {what} '{selector}' in {root}. {listed}{nearest(selector, found)} Run: {command}")


MADE_BY = {"cf": "model", "run": "method", "ids": "scheme"}  # the setting that names an artifact's plug-in


def models(config: Any) -> dict[str, dict[str, Path]]:
    """Every finished collaborative model and run of the dataset, by kind and name."""
    root = dataset_dir(config)
    return {"cf": finished(root / "cf", "cf"), "run": finished(root / "runs", "run")}


def find_model(config: Any, selector: str | None, listed: tuple[str, ...] = ("cf", "run")) -> tuple[Path, str]:
    """(folder, kind) of the run or collaborative model that a folder, a name or a plug-in's name stands for.

    Without a selector: the only run. `listed`: kinds that are offered where none is found.
    """
    root, found = dataset_dir(config), models(config)
    if selector is None:
        return _select(config, root / "runs", None, "run", "method"), "run"
    if "/" in selector:
        folder = Path(selector)
        inside = folder / "train" if artifacts.exists(folder / "train") else folder
        kind = "cf" if artifacts.exists(inside) and artifacts.read_manifest(inside)["kind"] == "cf" else "run"
        return pick(root, {}, selector, kind, MADE_BY[kind]), kind
    for kind, paths in found.items():
        made_by = {read_config(path)[MADE_BY[kind]] for path in paths.values()}
        if selector in paths or plugins.canonical(selector) in made_by:
            return pick(root / kind, paths, selector, kind, MADE_BY[kind]), kind
    offered = {name: path for kind in listed for name, path in found[kind].items()}
    return pick(root / "runs", offered, selector, "run", "method"), "run"


def ids_of_run(config: Any, run: Artifact, data: Artifact) -> Artifact:
    """The identifiers that a run was trained with, found by their digest."""
    wanted = run.manifest["parents"]["ids"]
    root = dataset_dir(config) / "ids"
    for path in finished(root, "ids").values():
        ids = artifacts.read(path, "ids")
        if ids.digest == wanted:
            ids.require_parent(data, "data")
            return ids
    raise UserError(
        f"run '{run.name}' was trained with identifiers of version {wanted[:8]}, which {root} no longer holds. "
        "Build them again with the same settings, or train again"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in a finished folder's manifest, without checking the files."""
    return dict(artifacts.read_manifest(folder)["config"])


def _sanity(folder: Path, kind: str) -> bool:
    return kind == "cf" and bool(plugins.load("cf", read_config(folder)["model"]).SANITY)


def sequences(data: Artifact) -> Sequences:
    """Every user's items in order, as flat arrays."""
    column = data.table("sequences")["items"].combine_chunks()
    return Sequences(column.values.to_numpy().astype(np.int64), column.offsets.to_numpy().astype(np.int64))


def events(data: Artifact, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(event, user, end) of a split."""
    table = data.table("splits")
    chosen = table["split"].to_numpy(zero_copy_only=False) == split
    return tuple(table[name].to_numpy()[chosen].astype(np.int64) for name in ("event", "user", "end"))


def training_part(data: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """(from_U, to_U): the places of each user's sequence that are for training."""
    users = data.table("users")
    return users["train_from"].to_numpy().astype(np.int64), users["train_to"].to_numpy().astype(np.int64)


def training_popularity(data: Artifact) -> np.ndarray:
    """How often each item occurs in the training parts (a user's first item included)."""
    all_ = sequences(data)
    start, stop = (np.repeat(each, all_.lengths) for each in training_part(data))
    place = np.arange(len(all_.items)) - np.repeat(all_.offsets[:-1], all_.lengths)
    training = (place >= start) & (place < stop)
    return np.bincount(all_.items[training], minlength=data.json("card.json")["statistics"]["items"])


def seen_in_training(data: Artifact) -> np.ndarray:
    """True for the items that occur in a training part, or are shown before one."""
    all_, shown = sequences(data), data.json("card.json")["max_history"]
    start, stop = (np.repeat(each, all_.lengths) for each in training_part(data))
    place = np.arange(len(all_.items)) - np.repeat(all_.offsets[:-1], all_.lengths)
    seen = np.zeros(data.json("card.json")["statistics"]["items"], dtype=bool)
    seen[all_.items[(place >= start - shown) & (place < stop)]] = True
    return seen


def item_order(data: Artifact) -> np.ndarray:
    """The place of every item among all, by original id: items are numbered so."""
    return np.arange(data.json("card.json")["statistics"]["items"])


def draw_users(user_E: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """True for the events of `limit` users drawn by the seed; all of them without a limit."""
    if limit is None:
        return np.ones(len(user_E), dtype=bool)
    users = np.unique(user_E)
    chosen = np.random.default_rng(seed).permutation(users)[:limit]
    return np.isin(user_E, chosen)
