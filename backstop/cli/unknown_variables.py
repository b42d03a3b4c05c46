"""Warns of variables that look like settings and are none: a mistyped setting would silently keep its default."""

import difflib
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from pydantic import AliasChoices, BaseModel

from backstop.cli.output import tell
from backstop.cli.settings_classes import SETTINGS_CLASSES

PREFIX: Final = "BACKSTOP_"
OF_COMMANDS: Final = frozenset(
    {"BACKSTOP_URL", "BACKSTOP_API_KEY", "BACKSTOP_STATE_DIR", "BACKSTOP_REAL_OPENAI", "BACKSTOP_MAVEN_REPOSITORY"}
)
"""Read by commands; they are settings of no process."""
TOLD_MAX: Final = 20


def warn_of_unknown(environment: Mapping[str, str]) -> None:
    """Print a sentence for each such variable on stderr."""
    for sentence in unknown(environment)[:TOLD_MAX]:
        tell(f"backstop: warning: {sentence}")


def unknown(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable with the prefix that no process and no command reads."""
    names = known()
    return [
        f"{name} is no setting and has no effect{_instead(name, names)}"
        for name in sorted(environment)
        if name.startswith(PREFIX) and name not in names and name.removesuffix("_FILE") not in names
    ]


def known() -> frozenset[str]:
    """All variables that a process or a command reads."""
    return OF_COMMANDS | {name for module, kind in SETTINGS_CLASSES for name in _names(module, kind)}


def _names(module: str, name: str) -> Iterator[str]:
    kind = getattr(import_module(module), name)
    prefix = str(kind.model_config.get("env_prefix", ""))
    for field, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from (f"{prefix}{field}_{inner}".upper() for inner in info.annotation.model_fields)
        elif isinstance(info.validation_alias, AliasChoices):
            yield from (str(choice).upper() for choice in info.validation_alias.choices)
        else:
            yield f"{prefix}{field}".upper()


def _instead(name: str, names: frozenset[str]) -> str:
    near = difflib.get_close_matches(re.sub(r"[^A-Z0-9_]", "", name.upper()), sorted(names), 1, 0.8)
    return f"; did you mean {near[0]}?" if near else ""
