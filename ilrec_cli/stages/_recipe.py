"""Settings of a grid -> the commands that make a cell, from raw data to an evaluated model.

A training, identifiers and a collaborative model are named by a hash of all their settings, those of presets and defaults
included. So cells of whatever table that need the same one share it, and changed settings make another.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ilrec_cli import config as configs
from ilrec_cli import plugins, presets, settings
from ilrec_cli.errors import UserError
from ilrec_cli.methods.ilrec.layers import resolve_layers
from ilrec_cli.stages._start import TAKEN

Values = dict[str, Any]
SIZES = ("backbone", "n_layers", "targets", "limit_users", "epochs")  # settings that decide how long a training takes


class Step(NamedTuple):
    """A command: its arguments but for --work and --raw-dir, the folder it makes (in --work), what its time depends on."""

    argv: tuple[str, ...]
    output: str | None
    kind: str
    files: str | None = None  # of preprocess: the dataset whose raw files are read

    @property
    def name(self) -> str:
        """Of what it makes; "" where that has none."""
        return self.argv[-1] if self.argv[-2] == "--name" else ""


class Recipes:
    """The commands of one cell."""

    def __init__(self, scale: Values, backbone: str, paradigm: str, data: Values, seed: int, ids: str | None):
        self.scale, self.paradigm, self.data, self.seed, self.given_ids = scale, paradigm, data, seed, ids
        self.backbone = scale["backbones"][backbone]

    def steps(self, row: Values) -> list[Step]:
        """All of a row's commands, in order; `UserError` says why a row cannot be."""
        steps, start, reward = preprocess(self.data), None, None
        if "model" in row:
            cf = self._cf(row["model"])
            return [*steps, cf, self._evaluate(over(self.scale.get("evaluate", {}), row.get("evaluate", {})), cf)]
        if why := self.backbone.get("why"):
            raise UserError(why)
        ids, rules = self._ids(), self._rules(row)
        steps += [ids] if ids else []
        if rules.get("decode") == "free" and "grounding" in self.scale:
            steps.append(self._build_ids(self.scale["grounding"]))
            rules = {**rules, "grounding": steps[-1].name}
        if "from" in row:
            start = self._train({"method": row["from"]}, ids, None, None)
            steps.append(start)
        if _needs_cf(row["method"], self._training(row)):
            reward = self._cf(str(row.get("reward", self.scale["reward"])))
            steps.append(reward)
        model = self._train(row, ids, reward, start)
        return [*steps, model, self._evaluate(rules, model)]

    def _training(self, row: Values) -> Values:
        """Settings of a row's training, the later over the earlier."""
        method = row["method"]
        own: Values = {key: row[key] for key in ("preset", "options") if key in row}
        layers = (
            self.scale["train"], self.scale["paradigms"][self.paradigm].get("train", {}),
            self.scale.get("methods", {}).get(method, {}), self.backbone.get("train", {}),
            self.scale.get("table", {}), {"preset": self.data.get(method, [])}, row.get("train", {}), own,
        )  # fmt: skip
        found: Values = {"preset": []}
        for layer in layers:
            found = over(found, layer)
        return found

    def _train(self, row: Values, ids: Step | None, cf: Step | None, start: Step | None) -> Step:
        method, chosen, name = row["method"], self._training(row), self.data["name"]
        self._refuse_layers(method, chosen)
        size = " ".join(str(chosen[key]) for key in SIZES if key in chosen)
        if start is not None:  # the prompt stays, where it is given: a preset may have another one than the run
            left = {key: value for key, value in chosen.items() if key not in TAKEN or key == "prompt"}
            chosen = left | {"from": start.name}
        else:
            chosen["ids"] = self.given_ids if ids is None else ids.name
        chosen |= {"cf": cf.name} if cf else {}
        argv = [
            "train",
            "--dataset",
            name,
            "--method",
            method.replace("_", "-"),
            "--seed",
            str(self.seed),
            *flags(chosen),
        ]
        identity = _identity(settings.Train, {**chosen, "method": method, "dataset": name}, "train")
        inputs = [chosen.get(key) for key in ("ids", "cf", "from", "probe_layers")]
        made = f"{self.paradigm.lower()}-{method.replace('_', '-')}-{configs.fingerprint([identity, inputs])[:6]}-s{self.seed}"
        kind = f"train {self.paradigm} {method} {size} {name}"
        return Step((*argv, "--name", made), f"{name}/runs/{made}/train", kind)

    def _refuse_layers(self, method: str, chosen: Values) -> None:
        """`UserError` for layers that the model does not have."""
        options, depth = _options(method, chosen), self.backbone.get("depth", chosen.get("n_layers"))
        if "layers" in options and depth is not None:
            resolve_layers(str(options["layers"]), int(depth), self.seed)

    def _ids(self) -> Step | None:
        """None where identifiers that are there were named."""
        given = self.paradigm == "LC-Rec" and self.given_ids is not None
        return None if given else self._build_ids(self.scale["ids"][self.paradigm])

    def _build_ids(self, values: Values) -> Step:
        name = self.data["name"]
        argv = ("build-ids", "--dataset", name, *flags(values))
        made = f"{values.get('scheme', 'codes')}-{configs.fingerprint(argv)[:6]}"
        return Step((*argv, "--name", made), f"{name}/ids/{made}", f"build-ids {made} {name}")

    def _cf(self, model: str) -> Step:
        name = self.data["name"]
        chosen = over(self.scale.get("train-cf", {}), self.data.get("train-cf", {}).get(model, {}))
        argv = ("train-cf", "--dataset", name, "--model", model, *flags(chosen))
        made = f"{model}-{configs.fingerprint(argv)[:6]}"
        return Step((*argv, "--name", made), f"{name}/cf/{made}/train", f"train-cf {model} {name}")

    def _rules(self, row: Values) -> Values:
        """Settings of the evaluation of a language model."""
        paradigm = self.scale["paradigms"][self.paradigm].get("evaluate", {})
        return over(over(self.scale.get("evaluate", {}), paradigm), row.get("evaluate", {}))

    def _evaluate(self, rules: Values, model: Step) -> Step:
        name = self.data["name"]
        _identity(settings.Evaluate, {**rules, "dataset": name}, "evaluate")
        argv = ("evaluate", "--dataset", name, "--run", model.name, *flags(rules))
        return Step(argv, None, f"evaluate {model.kind.partition(' ')[2]}")


def preprocess(data: Values) -> list[Step]:
    """The first commands of every cell on a dataset: its own, after that of the dataset whose raw files it reads."""
    name = data["name"]
    files = data.get("files", name)
    argv = ("preprocess", "--dataset", name, *flags(data.get("preprocess", {})))
    own = Step(argv, f"{name}/data", f"preprocess {name}", files)
    return [own] if files == name else [*preprocess({"name": files}), own]


def flags(values: Values) -> list[str]:
    """Settings as the command line has them."""
    found: list[str] = []
    for key, value in values.items():
        flag = f"--{key.replace('_', '-')}"
        if key == "options":
            for name, each in value.items():
                found += ["-o", f"{name}={str(each).lower() if isinstance(each, bool) else each}"]
        elif isinstance(value, bool):
            found += [flag] if value else [f"--no-{flag[2:]}"]
        elif isinstance(value, list):
            found += [flag, ",".join(map(str, value))] if value else []
        elif value is not None:
            found += [flag, str(value)]
    return found


def over(below: Values, above: Values) -> Values:
    """Both, the second winning: mappings key by key, lists of presets joined."""
    found = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(found.get(key), dict):
            found[key] = over(found[key], value)
        elif key == "preset" and isinstance(value, list):
            found[key] = [*found.get(key, []), *value]
        else:
            found[key] = value
    return found


def _options(method: str, chosen: Values) -> Values:
    """Options of a method, those of its presets below."""
    below = presets.chosen(plugins.load("methods", method), chosen.get("preset", []))
    return {**below.get("options", {}), **chosen.get("options", {})}


def _needs_cf(method: str, chosen: Values) -> bool:
    """Whether this configuration of the method asks for a collaborative model."""
    plugin: Any = plugins.load("methods", method)
    options = configs.build(plugin.Config, _options(method, chosen), f"method '{method}'")
    return any(need.startswith("cf_") for need in plugin.needs(options))


def _identity(cls: type, values: Values, command: str) -> Values:
    """Every setting that decides a result; `UserError` where this ilrec has no such setting, plug-in, preset or option."""
    texts = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}
    found = configs.as_dict(configs.build(cls, presets.under(cls, texts), f"ilrec {command}"), control=False)
    if "options" in found:
        plugin: Any = plugins.load("methods", found["method"])
        found["options"] = configs.as_dict(
            configs.build(plugin.Config, found["options"], f"method '{found['method']}'")
        )
    return found
