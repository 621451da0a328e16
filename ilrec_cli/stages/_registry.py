"""Runs and collaborative models of a work folder, finished or not: where they are, what they were made from, how they did."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ilrec_cli import artifacts, folders
from ilrec_cli import config as configs
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.json_log import read_log
from ilrec_cli.stages import _evaluation, _inputs, _run_folder

FOLDERS = {"cf": "cf", "runs": "run"}  # folder of a dataset -> kind of artifact
ROLES = {"cf": "cf", "run": "from"}  # as what a training that is made from one names it


class Entry(NamedTuple):
    """One run or collaborative model; `folder` holds `train` and `eval`. The manifest is {} until it is finished."""

    folder: Path
    status: str  # finished, unfinished, locked: a process is at it
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        return FOLDERS[self.folder.parent.name]

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self.folder.parents[1]

    @property
    def train(self) -> Path:
        return self.folder / "train"

    @property
    def settings(self) -> dict[str, Any]:
        """What it was or is trained with; of an unfinished one with the names of its inputs."""
        if self.manifest:
            return {**self.manifest["config"], "seed": self.manifest["seed"]}
        file = self.train / "config.yaml"
        return configs.read_yaml(file) if file.is_file() else {}

    @property
    def made_by(self) -> str:
        """The method or the collaborative model."""
        return str(self.settings.get(_inputs.MADE_BY[self.kind], "-"))


def entries(work: Path, dataset: str | None) -> list[Entry]:
    """All of a dataset, or of every dataset; collaborative models first."""
    roots = sorted(work.glob("[!.]*")) if dataset is None else [work / folders.plain_name(dataset, "--dataset")]
    places = [root / folder for root in roots for folder in FOLDERS]
    return [entry(path) for place in places for path in sorted(place.glob("[!.]*")) if is_ours(path)]


def is_ours(folder: Path) -> bool:
    """Whether a training made this folder."""
    train = folder / "train"
    return artifacts.exists(train) or (train / "config.yaml").is_file() or (train / artifacts.SCRATCH).is_dir()


def entry(folder: Path) -> Entry:
    if artifacts.exists(folder / "train"):
        return Entry(folder, "finished", artifacts.read_manifest(folder / "train"))
    with folders.locked(folder, wait=False) as free:
        return Entry(folder, "unfinished" if free else "locked", {})


def find(config: Any, selector: str) -> Entry:
    """The one that NAME, runs/NAME or cf/NAME stands for."""
    known = entries(config.work, config.dataset)
    found = [each for each in known if selector in (each.name, f"{each.folder.parent.name}/{each.name}")]
    if len(found) > 1:
        raise UserError(f"'{selector}' is a run and a collaborative model: say runs/{selector} or cf/{selector}")
    if not found:
        names = [each.name for each in known]
        listed = f"There are: {', '.join(names)}." if names else "There is none yet."
        raise UserError(
            f"no run or collaborative model '{selector}' in {_inputs.dataset_dir(config)}. {listed}"
            f"{nearest(selector, names)} Look: ilrec runs ls"
        )
    return found[0]


def index(root: Path) -> dict[str, Path]:
    """Digest -> folder of every finished artifact of a dataset that something else may be made from."""
    return {artifacts.read_manifest(path)["digest"]: path for path in made_from(root)}


def made_from(root: Path) -> Iterator[Path]:
    """Folders of finished artifacts of a dataset: data, identifiers, collaborative models, runs."""
    if artifacts.exists(root / "data"):
        yield root / "data"
    for folder, kind in {"ids": "ids", **FOLDERS}.items():
        yield from _inputs.finished(root / folder, kind).values()


def label(path: Path) -> str:
    """data, ids/text, cf/sasrec: an artifact's place in its dataset's folder."""
    path = path.parent if path.name == "train" else path
    return path.name if path.name == "data" else f"{path.parent.name}/{path.name}"


def parents(entry: Entry, known: dict[str, Path]) -> dict[str, str]:
    """Role -> the artifact it was made from, by name; where that is gone, its version. Of an unfinished one, as named."""
    if not entry.manifest:
        return {role: str(entry.settings[role]) for role in ("ids", *ROLES.values()) if entry.settings.get(role)}
    found = entry.manifest["parents"].items()
    return {role: label(known[digest]) if digest in known else f"version {digest[:8]}, gone" for role, digest in found}


def training(entry: Entry) -> dict[str, Any]:
    """What the log says: the best validation, steps, epochs and seconds; nothing where there is no log."""
    log = read_log(entry.train / "log.jsonl")
    # The last that was kept, not the highest: weights that were lost are sought again from the next validation on.
    best: dict[str, Any] = next((row for row in reversed(log) if row.get("best")), {})
    last = log[-1] if log else {}
    return {
        **{name: best[name] for name in ("valid_ndcg@10", "valid_hit@10") if name in best},
        **({"best_step": best["step"]} if best else {}),
        **{name: last[name] for name in ("step", "epoch", "seconds") if name in last},
    }


def evaluations(entry: Entry) -> Iterator[tuple[str, dict[str, Any]]]:
    """(folder, metrics.json) of every evaluation of this very run by this version, test split first."""
    done = [path for path in (entry.folder / "eval").glob("[!.]*") if artifacts.exists(path)]
    for path in sorted(done, key=lambda path: (not path.name.startswith("test"), path.name)):
        if artifacts.read_manifest(path)["parents"].get("run") == entry.manifest.get("digest"):
            result = dict(json.loads((path / "metrics.json").read_text(encoding="utf-8")))
            if result.get("version") == _evaluation.VERSION:
                yield path.name, result


def provenance(path: Path) -> dict[str, Any]:
    """Where, when and with what a finished artifact was made."""
    file = path / "provenance.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def state(entry: Entry) -> str:
    """The status, with what a reader would ask next."""
    if entry.status == "unfinished" and _run_folder.has_checkpoint(entry.train):
        return "unfinished, --resume"
    return entry.status
