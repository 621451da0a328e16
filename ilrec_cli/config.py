"""Configurations: frozen dataclasses filled from a YAML file, then flags. Unknown keys and choices are errors.

Every field carries its help (and marks) in its annotation; the same text is the command line's help:
`alpha: Annotated[float, "threshold of negatives, eq. 4"] = 0.8`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from ilrec_cli import plugins
from ilrec_cli.errors import UserError, abridged, nearest

C = TypeVar("C")
LARGEST = 10**18 - 1  # whole number: what fits into 64 bits, and into the name of a folder


class Control:
    """Mark of a field that steers a run without being part of its identity (where it writes, what it prints)."""


class Positional:
    """Mark of a field whose values stand on the command line without a flag."""


class Plugin(NamedTuple):
    """Mark of a field that names a plug-in of this folder; `extra` are values allowed besides."""

    folder: str
    extra: tuple[str, ...] = ()


class Panel(NamedTuple):
    """Mark: the group of the command's help in which the field stands."""

    title: str


class Field(NamedTuple):
    """One setting, as the command line, the YAML reader and the listings see it."""

    name: str
    type: Any
    help: str
    default: Any
    choices: tuple[str, ...]
    control: bool
    panel: str | None
    positional: bool = False

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING


def fields(cls: type) -> list[Field]:
    """The settings of a configuration class, in their order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return [_field(field, hints[field.name]) for field in dataclasses.fields(cls)]


def build(cls: type[C], values: dict[str, Any], where: str) -> C:
    """An instance from loosely typed values (YAML, flags, `-o key=value`); errors name `where`, key, got, expected."""
    known = {field.name: field for field in fields(cls)}
    values = {key if key in known or f"{key}_" not in known else f"{key}_": value for key, value in values.items()}
    for key in values:
        if key not in known:
            listed = f"Known: {', '.join(known)}" if known else "It has none"
            raise UserError(f"{where}: unknown setting '{key}'.{nearest(key, known)} {listed}")
    missing = [name for name, field in known.items() if field.required and name not in values]
    if missing:
        raise UserError(f"{where}: --{missing[0].replace('_', '-')} is missing: {known[missing[0]].help}")
    typed = {key: _coerce(value, known[key], where) for key, value in values.items()}
    try:
        made = cls(**typed)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    for name, value in typed.items():  # what the class itself has no bound for
        if any(isinstance(part, int) and abs(part) > LARGEST for part in _parts(value)):
            raise UserError(f"{where}: {name} is {abridged(str(value))}, expected a number of at most 18 digits")
    return made


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; keys may use - or _."""
    import yaml

    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_strict_loader())
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError) as error:  # what is no text, and numbers of more digits than Python reads
        raise UserError(f"--config {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data or {}, dict):
        raise UserError(f"--config {path}: expected a mapping of settings, got {type(data).__name__}")
    return {str(key).replace("-", "_"): value for key, value in (data or {}).items()}


def parse_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """{'alpha': '0.8'} from ['alpha=0.8']."""
    parsed = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"-o {pair}: expected key=value, for example -o alpha=0.8")
        parsed[key.strip().replace("-", "_")] = value.strip()
    return parsed


def as_dict(config: Any, *, control: bool = True) -> dict[str, Any]:
    """Plain values for JSON and YAML; without control fields if asked."""
    chosen = [field.name for field in fields(type(config)) if control or not field.control]
    return {name: _plain(getattr(config, name)) for name in chosen}


def to_yaml(data: dict[str, Any]) -> str:
    """YAML text that `read_yaml` reads back to the same values."""
    import yaml

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def fingerprint(data: Any) -> str:
    """8 hex digits of a configuration, for default names."""
    canonical = json.dumps(_plain(data), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def _field(field: dataclasses.Field[Any], hint: Any) -> Field:
    marks: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        marks = tuple(rest)
    choices: tuple[str, ...] = ()
    for part in typing.get_args(hint) if _optional(hint) else (hint,):
        if typing.get_origin(part) is Literal:
            choices = typing.get_args(part)
    for mark in marks:
        if isinstance(mark, Plugin):
            choices = (*mark.extra, *plugins.names(mark.folder))
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Field(
        name=field.name,
        type=hint,
        help=next((mark for mark in marks if isinstance(mark, str)), ""),
        default=default,
        choices=choices,
        control=any(isinstance(mark, Control) or mark is Control for mark in marks),
        panel=next((mark.title for mark in marks if isinstance(mark, Panel)), None),
        positional=any(mark is Positional for mark in marks),
    )


def _coerce(value: Any, field: Field, where: str) -> Any:
    """The value in the field's type: YAML reads 1e-4 as text, flags are text throughout."""
    if value is None and _optional(field.type):
        return None
    if field.choices:
        spelled = {plugins.canonical(choice): choice for choice in field.choices}  # - and _ are the same
        if plugins.canonical(str(value)) not in spelled:
            listed = ", ".join(field.choices)
            raise UserError(
                f"{where}: {field.name} is '{abridged(str(value))}', expected one of {listed}.{nearest(str(value), field.choices)}"
            )
        return spelled[plugins.canonical(str(value))]
    if typing.get_origin(field.type) is tuple and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    from pydantic import TypeAdapter, ValidationError

    try:
        # A YAML file may hold 2018 where a name is meant.
        found = TypeAdapter(field.type, config={"coerce_numbers_to_str": True}).validate_python(value)
    except ValidationError as error:
        expected = _type_name(field.type)
        reason = error.errors()[0]["msg"].lower()
        raise UserError(f"{where}: {field.name} is {abridged(repr(value))}, expected {expected} ({reason})") from error
    if any(isinstance(part, float) and not math.isfinite(part) for part in _parts(found)):
        raise UserError(f"{where}: {field.name} is {value}, expected a finite number")
    return found


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint)


def _type_name(hint: Any) -> str:
    if _optional(hint):
        return " or ".join("nothing" if part is type(None) else _type_name(part) for part in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_dict(value)
    return value


def _strict_loader() -> Any:
    """PyYAML's safe loader, except that a key given twice is an error instead of the last one winning."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        loader.flatten_mapping(node)
        keys = [loader.construct_object(key) for key, _ in node.value]
        twice = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' is given twice", node.start_mark)
        return dict(loader.construct_pairs(node))

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return Loader
