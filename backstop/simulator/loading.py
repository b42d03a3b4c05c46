"""Converts JSON to checked configuration and back. An error names the field by its full path."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import orjson

from backstop.simulator.config import Profile
from backstop.simulator.errors import ConfigError
from backstop.simulator.profiles import PRESETS

T = TypeVar("T")


def load_profile(text: str) -> Profile:
    """A profile from a preset's name, JSON text starting with `{`, or a JSON file.

    :raises ConfigError: says what is wrong.
    """
    if text in PRESETS:
        return PRESETS[text]
    if text.lstrip().startswith("{"):
        return profile_from_json(text.encode())
    path = Path(text)
    if not path.is_file():
        raise ConfigError(f"profile {text!r}: neither a preset ({', '.join(PRESETS)}) nor a file")
    return profile_from_json(path.read_bytes())


def profile_from_json(body: bytes) -> Profile:
    """A profile from JSON, laid over its `base` (default `calm`)."""
    return merge_profile(PRESETS["calm"], parse_object(body))


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; ConfigError where there is none."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError("must be a JSON object")
    return raw


def merge_profile(present: Profile, changes: Mapping[str, Any]) -> Profile:
    """Lay `changes` over `present`, or over the preset named by `base`; maps are merged, lists replaced."""
    changes = dict(changes)
    base = changes.pop("base", None)
    if base is not None:
        if base not in PRESETS:
            raise ConfigError(f"base: {base!r} is not one of {', '.join(PRESETS)}")
        present = PRESETS[base]
    return build(Profile, _merged(to_json(present), changes), "")


def to_json(value: Any) -> Any:
    """A configuration object as plain JSON data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    return value


def _merged(old: Any, new: Any) -> Any:
    # A distribution of another kind replaces the old one completely.
    if not isinstance(old, dict) or not isinstance(new, Mapping) or "kind" in new:
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def build(cls: type[T], raw: Any, where: str) -> T:
    """Build the dataclass `cls` from JSON data; `where` is the path that errors name."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where or 'it'}: must be an object, not {raw!r:.60}")
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in raw.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            raise ConfigError(f"{path}: no such field" + (f"; did you mean {near[0]}?" if near else ""))
        values[key] = _convert(hints[key], value, path)
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error
    except TypeError as error:  # a field without a default is absent
        raise ConfigError(f"{where or 'it'}: {error}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, path)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{path}: {value!r} is not one of {', '.join(map(str, get_args(hint)))}")
        return value
    if origin in (types.UnionType, typing.Union):
        inner = next(each for each in get_args(hint) if each is not type(None))
        return None if value is None else _convert(inner, value, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: must be a list, not {value!r:.60}")
        return tuple(_convert(get_args(hint)[0], each, f"{path}[{index}]") for index, each in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: must be an object, not {value!r:.60}")
        return {str(key): _convert(get_args(hint)[1], each, f"{path}.{key}") for key, each in value.items()}
    return _plain(hint, value, path)


def _plain(hint: Any, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: must be {hint.__name__}, not {value!r:.60}")
    return value
