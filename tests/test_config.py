"""Settings from YAML and flags: typed, checked, near misses named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from ilrec_cli import config, plugins, settings
from ilrec_cli.config import Control, Plugin
from ilrec_cli.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Example:
    name: Annotated[str, "a name"]
    rate: Annotated[float, "a rate"] = 1e-3
    steps: Annotated[int | None, "steps"] = None
    flag: Annotated[bool, "a flag"] = False
    kind: Annotated[Literal["one", "two_three"], "a kind"] = "one"
    method: Annotated[str, "a plug-in", Plugin("methods", ("auto",))] = "auto"
    parts: Annotated[tuple[str, ...], "parts"] = ()
    path: Annotated[Path | None, "a path", Control] = None
    options: Annotated[dict[str, Any], "options"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps == 13:
            raise ValueError("steps is 13, expected luck")


def build(**values: Any) -> Example:
    return config.build(Example, {"name": "n", **values}, "here")


def test_text_takes_the_type_of_the_field() -> None:
    found = build(rate="1e-4", steps="7", flag="true", kind="two-three", parts="a, b,", path="x/y", method="ilrec")
    assert found == Example(
        name="n", rate=1e-4, steps=7, flag=True, kind="two_three", parts=("a", "b"), path=Path("x/y"), method="ilrec"
    )
    assert build(flag="false").flag is False
    assert build(steps=None).steps is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, "here: unknown setting 'rat'. Did you mean 'rate'?"),
        ({"rate": "fast"}, "here: rate is 'fast', expected float"),
        ({"steps": "1.5"}, "here: steps is '1.5', expected int or nothing"),
        ({"kind": "tow_three"}, "kind is 'tow_three', expected one of one, two_three. Did you mean 'two_three'?"),
        ({"method": "ilrek"}, "Did you mean 'ilrec'?"),
        ({"flag": "maybe"}, "flag is 'maybe', expected bool"),
        ({"steps": 13}, "here: steps is 13, expected luck"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        build(**values)
    assert message in str(refusal.value)


def test_what_is_required_is_asked_for() -> None:
    with pytest.raises(UserError, match="here: --name is missing: a name"):
        config.build(Example, {}, "here")


def test_yaml_round_trip_and_its_traps(tmp_path: Path) -> None:
    found = build(rate="5e-05", parts="a,b", steps=3)
    file = tmp_path / "c.yaml"
    file.write_text(config.to_yaml(config.as_dict(found)))
    assert config.build(Example, config.read_yaml(file), "here") == found
    file.write_text("name: n\nlearning-rate: 1\n")
    assert config.read_yaml(file) == {"name": "n", "learning_rate": 1}
    file.write_text("rate: 1e-4\nname: n\n")
    assert config.build(Example, config.read_yaml(file), "here").rate == 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "'a' is given twice"),
        ("- 1", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object:os.x {}", "not valid YAML"),
    ],
)
def test_bad_yaml_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        config.read_yaml(file)
    with pytest.raises(UserError, match="cannot be read"):
        config.read_yaml(tmp_path / "none.yaml")


def test_control_settings_are_no_part_of_a_runs_identity() -> None:
    assert "path" not in config.as_dict(build(path="x"), control=False)
    train = settings.Train(dataset="d")
    identity = config.as_dict(train, control=False)
    assert not {"work", "quiet", "json", "device", "resume", "name", "micro_batch", "loss_chunk"} & identity.keys()
    assert {"seed", "method", "learning_rate", "batch_size", "dtype", "backbone"} <= identity.keys()


def test_fingerprints_depend_on_values_alone() -> None:
    one = config.fingerprint({"a": 1, "b": (1, 2)})
    assert one == config.fingerprint({"b": [1, 2], "a": 1})
    assert one != config.fingerprint({"a": 2, "b": [1, 2]})
    assert len(one) == 8


def test_every_setting_of_every_command_and_plugin_has_help() -> None:
    classes = [cls for cls in vars(settings).values() if isinstance(cls, type) and cls.__module__ == settings.__name__]
    for folder in plugins.FOLDERS:
        classes += [plugins.load(folder, name).Config for name in plugins.names(folder)]
    for cls in classes:
        for each in config.fields(cls):
            assert each.help, f"{cls.__qualname__}.{each.name}"


def test_option_pairs() -> None:
    assert config.parse_pairs(["alpha=0.8", "layer-head = shared", "x=a=b"]) == {
        "alpha": "0.8",
        "layer_head": "shared",
        "x": "a=b",
    }
    with pytest.raises(UserError, match="expected key=value"):
        config.parse_pairs(["alpha"])


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"learning_rate": 0},
        {"dropout": 1.0},
        {"hidden_size": 30, "n_heads": 4},
        {"resume": True, "overwrite": True},
        {"limit_users": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        config.build(settings.Train, {"dataset": "d", **values}, "ilrec train")
