"""Configurations are frozen dataclasses; this turns them into JSON and back, changes a field by its dotted name, and
says where two differ. An unknown name is an error that gives the nearest known one.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from openjepa.errors import ConfigError, nearest, sentence

C = TypeVar("C")
KIND = "kind"  # names the class of a field that may hold one of several


def to_dict(config: Any) -> Any:
    """A dataclass to plain JSON values; a field of a union of dataclasses also records its `kind`."""
    if isinstance(config, PurePath):
        return str(config)
    if not dataclasses.is_dataclass(config):
        return list(config) if isinstance(config, tuple) else config
    hints = typing.get_type_hints(type(config))
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        plain[field.name] = to_dict(value)
        if len(_dataclasses_in(hints[field.name])) > 1:
            plain[field.name] = {KIND: type(value).__name__, **plain[field.name]}
    return plain


def from_dict(kind: type[C], plain: dict[str, Any], path: str = "") -> C:
    """The inverse of `to_dict`. Fields left out take their default; ConfigError lists every unknown one."""
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    wrong: list[str] = []
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if name not in known:
            wrong.append(f"{path}{name}: unknown field. {nearest(name, known)}")
            continue
        try:
            values[name] = _value(hints[name], value, f"{path}{name}")
        except ConfigError as error:
            wrong += error.mistakes
    if wrong:
        raise ConfigError(wrong)
    return kind(**values)


def _dataclasses_in(hint: Any) -> list[type]:
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    return [part for part in parts if dataclasses.is_dataclass(part)]  # type: ignore[misc]


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _value(hint: Any, value: Any, path: str) -> Any:
    kinds = {kind.__name__: kind for kind in _dataclasses_in(hint)}
    if isinstance(value, dict) and kinds:
        rest = {k: v for k, v in value.items() if k != KIND}
        name = value.get(KIND, next(iter(kinds)))
        if name not in kinds:
            raise ConfigError(f"{path}.{KIND} = {name!r}: unknown. {nearest(str(name), kinds)}")
        return from_dict(kinds[name], rest, f"{path}.")
    if isinstance(value, list):
        return tuple(value)
    return value


def changed(config: C, settings: dict[str, Any]) -> C:
    """`config` with fields replaced by dotted name, {"encoder.depth": 6}; unknown names are all reported at once."""
    wrong: list[str] = []
    for name, value in settings.items():
        config = _changed(config, name.split("."), value, name, wrong)
    if wrong:
        raise ConfigError(wrong)
    return config


def settings_from(texts: Sequence[str]) -> dict[str, Any]:
    """What was typed as name=value: numbers, true, false, null and [lists] as JSON has them, anything else a string.

    >>> settings_from(["optim.lr=1e-3", "method.loss=l1"])
    {'optim.lr': 0.001, 'method.loss': 'l1'}
    """
    settings: dict[str, Any] = {}
    wrong: list[str] = []
    for text in texts:
        name, is_given, value = text.partition("=")
        if not is_given or not name.strip():
            wrong.append(sentence("setting", text, "must be name=value", "Such as optim.lr=1e-3."))
            continue
        try:
            settings[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            settings[name.strip()] = value.strip()
    if wrong:
        raise ConfigError(wrong)
    return settings


def _changed(config: C, path: list[str], value: Any, name: str, wrong: list[str]) -> C:
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    head, *rest = path
    if head not in fields:
        wrong.append(f"{name}: unknown setting. {nearest(head, fields)}")
        return config
    if rest:
        if not dataclasses.is_dataclass(fields[head]):
            wrong.append(f"{name}: {head} has no settings inside it.")
            return config
        value = _changed(fields[head], rest, value, name, wrong)
    elif isinstance(value, list):
        value = tuple(value)
    return dataclasses.replace(config, **{head: value})  # type: ignore[type-var]


def type_mistakes(config: Any, path: str = "") -> list[str]:
    """Every field whose value is not of its declared type or not among its choices, as sentences."""
    hints = typing.get_type_hints(type(config))
    wrong: list[str] = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), path + field.name
        if dataclasses.is_dataclass(value) and type(value) in _dataclasses_in(hints[field.name]):
            wrong += type_mistakes(value, f"{name}.")
        elif not _fits(value, hints[field.name]):
            wrong.append(
                sentence(name, value, f"must be {_spoken(hints[field.name])}", _choice(value, hints[field.name]))
            )
    return wrong


def _fits(value: Any, hint: Any) -> bool:
    if _is_union(hint):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        parts = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(entry, parts[0]) for entry in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is float:  # a whole number will do; a bool is no number
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


_SPOKEN: dict[Any, str] = {
    float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "none"
}  # fmt: skip


def _spoken(hint: Any) -> str:
    """What a field may hold, in words that suit the command line and Python alike."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, parts))
    if _is_union(hint):
        return " or ".join(map(_spoken, parts))
    if typing.get_origin(hint) is tuple:
        length = "list of" if parts[-1] is Ellipsis else f"list of {len(parts)}"
        return f"a {length} {_spoken(parts[0]).removeprefix('a ')}s"
    return _SPOKEN.get(hint) or hint.__name__


def _choice(value: Any, hint: Any) -> str:
    is_word = typing.get_origin(hint) is typing.Literal and isinstance(value, str)
    return nearest(value, typing.get_args(hint)) if is_word else ""


def flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested JSON to {dotted name: value}."""
    out: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """'name: before -> after' for every dotted name where two nested JSON documents differ."""
    old, new = flat(before), flat(after)
    missing = "(not there)"
    return [
        f"{name}: {old.get(name, missing)!r} -> {new.get(name, missing)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, missing) != new.get(name, missing)
    ]


def at_most_one(what: str, given: dict[str, Any]) -> str | None:
    """The name of the one value given among alternatives; a ConfigError when there are several."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        rule = f"give exactly one of {', '.join(given)}"
        raise ConfigError(sentence(what, {name: given[name] for name in names}, rule))
    return names[0] if names else None
