"""Settings of `train`, searched on validation data: every trial is a run by the real command, the best one a YAML file.

Test events are never read. A sweep that was stopped goes on, inside the trial too; trials that are recorded are not run
again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from ilrec_cli import artifacts, folders, plugins, presets
from ilrec_cli import config as configs
from ilrec_cli.console import Console
from ilrec_cli.errors import UserError, nearest
from ilrec_cli.interrupt import Stopped
from ilrec_cli.json_log import read_log
from ilrec_cli.settings import Sweep, Train
from ilrec_cli.stages import _inputs, _registry, _run_folder, _search, _space, _task
from ilrec_cli.stages._search import FIGURE, Row, Trial
from ilrec_cli.stages._space import Axis
from ilrec_cli.stages._trial_processes import Processes

Command = Callable[[Sequence[str]], dict[str, Any]]
POLL = 1.0  # seconds between two looks at a training of another process
INPUTS = ("ids", "cf", "preset")  # settings that steer, and yet are worth trying


def run(config: Sweep, command: Command) -> dict[str, Any]:
    """Run the trials that are not recorded; write WORK/DATASET/sweeps/NAME/trials.jsonl and best.yaml; print the table."""
    console = Console.of(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("ilrec sweep is one process; start it without accelerate launch")
    sweep = _Sweep(config, command, console)
    with _search.opened(sweep.folder, overwrite=config.overwrite) as log:
        rows = sweep.suggested(log) if config.search == "optuna" else sweep.listed(log)
        best = _search.write_best(sweep.folder, rows, lambda row: sweep.values(row["changed"]))
    _search.show(rows, (FIGURE, "valid_hit@10", "best_step"), console)
    failed = [row for row in rows if "failed" in row]
    if failed:
        console.warn(
            f"{len(failed)} trials failed, such as {_search.named(failed[0]['changed'])}: {failed[0]['failed']}"
        )
    console.say(f"\nTrials: {log}\nBest: {best}\nNext: ilrec train {_inputs.flags(config)} --config {best}")
    return {"path": str(sweep.folder), "trials": len(rows), "best": rows[0]}


class _Sweep:
    """What is searched, with what every trial has in common."""

    def __init__(self, config: Sweep, command: Command, console: Console):
        self.config, self.command, self.console = config, command, console
        self.base = configs.read_yaml(config.train) if config.train is not None else {}
        self.base_options = dict(self.base.pop("options", None) or {})
        given = {**self._published(), **config.options}
        hint = "Give values, such as -o alpha=0.5,0.8 -o learning_rate=1e-3,2e-3, or --grid paper"
        listed = _search.axes(given, self._known(given), "ilrec sweep", hint)
        self.axes: dict[str, Axis] = {key: _space.axis(key, values) for key, values in listed.items()}
        self.name = folders.plain_name(config.name or self._methods(given)[0], "--name")
        self.folder = _inputs.dataset_dir(config) / "sweeps" / self.name
        self.processes, self.tidying = Processes(config.devices), Lock()
        _inputs.read_data(config)

    def _methods(self, given: dict[str, Any]) -> list[str]:
        """The methods that trials may have."""
        default = next(field.default for field in configs.fields(Train) if field.name == "method")
        chosen = given.get("method", self.base.get("method", default))
        return [
            str(each).strip().replace("-", "_")
            for each in (chosen if isinstance(chosen, list) else str(chosen).split(","))
        ]

    def _known(self, given: dict[str, Any]) -> list[str]:
        settings = [field.name for field in configs.fields(Train) if not field.control or field.name in INPUTS]
        plugin = [plugins.load("methods", name) for name in self._methods(given)]
        options = [field.name for each in plugin for field in configs.fields(each.Config)]
        return list(dict.fromkeys(name for name in (*settings, *options) if name not in ("dataset", "options")))

    def _published(self) -> dict[str, Any]:
        """The values of --grid."""
        if self.config.grid is None:
            return {}
        method = self._methods(self.config.options)[0]
        grids = vars(plugins.load("methods", method)).get("GRIDS", {})
        if self.config.grid not in grids:
            listed = f"There are: {', '.join(grids)}.{nearest(self.config.grid, grids)}" if grids else "It has none."
            raise UserError(f"--grid {self.config.grid}: {method} has no such grid. {listed}")
        return {key: list(values) for key, values in grids[self.config.grid].items()}

    def values(self, changed: dict[str, Any]) -> dict[str, Any]:
        """Settings of `train --config` for what a trial changes."""
        settings = {field.name for field in configs.fields(Train)}
        above = {key: value for key, value in changed.items() if key in settings}
        options = self.base_options | {key: value for key, value in changed.items() if key not in settings}
        return {**self.base, "dataset": self.config.dataset, **above, **({"options": options} if options else {})}

    def trial(self, drawn: dict[str, Any]) -> Trial:
        """A trial with every open setting decided; `UserError` where it cannot be."""
        where = f"ilrec sweep, trial {_search.named(drawn)}"
        values = self.values(drawn)
        inputs = {"work": self.config.work, **({"data": self.config.data} if self.config.data else {})}
        task = _task.worded(_task.decided(configs.build(Train, presets.under(Train, {**values, **inputs}), where)))
        recorded = {**task.recorded, **task.recorded["options"]}
        changed = {key: recorded.get(key, value) for key, value in drawn.items()}
        return Trial(changed, task.settings, values, _run_folder.identity(task))

    def listed(self, log: Path) -> list[Row]:
        """All of a grid, or what the seed draws of it or of the space."""
        config = self.config
        if config.search == "grid":
            trials = _search.combinations(_space.lists(self.axes), self.trial, config.trials, config.seed)
        else:
            drawn = [self.trial(each) for each in _space.drawn(self.axes, config.trials or 0, config.seed)]
            trials = list({json.dumps(trial.identity, sort_keys=True): trial for trial in drawn}.values())
        self._refuse_other_bases(trials, read_log(log))
        at_once = max(1, len(config.devices))
        return _search.run_all(trials, log, self.run, self.console, at_once=at_once, stop=self.processes.stop)

    def suggested(self, log: Path) -> list[Row]:
        """One after another, each in view of those before it."""
        recorded = [row for row in read_log(log) if self._is_ours(row)]
        suggester = _space.Suggester(self.axes, self.config.seed, len(recorded))
        for row in recorded:
            suggester.tell(row["drawn"], row[FIGURE])
        self._refuse_other_bases([self.trial(row["drawn"]) for row in recorded], recorded)
        self.console.say(f"{len(recorded)} of {self.config.trials} trials are recorded")
        for number in range(len(recorded) + 1, (self.config.trials or 0) + 1):
            drawn = suggester.ask()
            trial = self.trial(drawn)
            row = _search.found(trial, recorded) or _search.write(
                log, _search.run_one(trial, self.run, self.console, drawn=drawn)
            )
            self.console.say(f"Trial {number} of {self.config.trials}: {_search.outcome(row)}")
            recorded.append(row)
            suggester.tell(drawn, row[FIGURE])
        return _search.best_first(recorded)

    def _is_ours(self, row: Row) -> bool:
        """Whether a recorded trial is of this space, with the same settings besides."""
        drawn = row.get("drawn", {})
        return _space.fits(self.axes, drawn) and self.trial(drawn).identity == row["identity"]

    def _refuse_other_bases(self, trials: Sequence[Trial], recorded: Sequence[Row]) -> None:
        """`UserError` where a recorded trial began with other weights than its backbone has now: no figures to compare."""
        for trial in trials:
            known, now = (
                (_search.found(trial, recorded) or {}).get("backbone_version"),
                _task.base_version(trial.settings),
            )
            if known is not None and now not in (None, known):
                raise UserError(
                    f"{self.folder}: its trials began with version {known} of {trial.settings.backbone}, whose weights are "
                    f"now {now}. Put those back, choose another --name, or --overwrite"
                )

    def _is_of_another_base(self, trial: Trial, folder: Path) -> bool:
        """Whether a run of this trial, of which no line is kept, began with other weights than its backbone has now."""
        known = _run_folder.base_version(folder / "train")
        return known is not None and _task.base_version(trial.settings) not in (None, known)

    def run(self, trial: Trial) -> Row:
        """Train once, by the command; its best validation. A run that fails is a line too."""
        mark = configs.fingerprint(trial.identity)
        name, file = f"sweep-{self.name}-{mark}", self.folder / "trials" / f"{mark}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_text(file, configs.to_yaml(trial.options))
        folder = _inputs.dataset_dir(self.config) / "runs" / name
        flags = ["train", "--config", str(file), "--work", str(self.config.work), "--name", name]
        flags += ["--data", str(self.config.data)] if self.config.data else []
        self._wait_for(folder)
        if self._is_of_another_base(trial, folder):
            flags += ["--overwrite"]
        elif _run_folder.has_checkpoint(folder / "train"):
            flags += ["--resume"]
        try:
            self._train(flags)
        except UserError as error:
            self.console.say(f"failed: {error}")
            none = dict.fromkeys((FIGURE, "valid_hit@10", "best_step"))
            return {**none, "seconds": 0, "run": name, "failed": str(error)}
        found, version = _registry.training(_registry.entry(folder)), _run_folder.base_version(folder / "train")
        self._tidy(name, found[FIGURE])
        return {**{key: found.get(key) for key in (FIGURE, "valid_hit@10", "best_step")}, "steps": found.get("step"),
                "seconds": found["seconds"], "run": name, "backbone_version": version}  # fmt: skip

    def _wait_for(self, folder: Path) -> None:
        """A training that outlived a killed search ends first: two cannot train one run, and that says nothing of the trial."""
        said = False
        while folder.is_dir():
            with folders.locked(folder, wait=False) as free:
                if free:
                    return
            if self.processes.stopping:
                raise Stopped("a trial was stopped")
            if not said:
                self.console.say(f"{folder.name} is trained by another process; waiting for it")
            said = True
            time.sleep(POLL)

    def _train(self, flags: list[str]) -> None:
        """Here, or in a process of its own on the next free device."""
        if self.config.devices:
            self.processes.train(flags)
        else:
            self.command([*flags, *["--quiet"] * self.config.quiet, *["--verbose"] * self.config.verbose])

    def _tidy(self, name: str, value: float) -> None:
        """Remove the models that are not wanted; one that was evaluated, or that something is made from, stays."""
        if self.config.keep == "all":
            return
        with self.tidying:  # trials on several devices end at the same time
            rows = [row for row in read_log(self.folder / "trials.jsonl") if "failed" not in row]
            results = {**{row["run"]: row[FIGURE] for row in rows}, name: value}
            best = max(results, key=lambda each: results[each])
            for each in results:
                run = _inputs.dataset_dir(self.config) / "runs" / each
                if (self.config.keep == "none" or each != best) and run.is_dir() and not (run / "eval").exists():
                    folders.remove(run)
