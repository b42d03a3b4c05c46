"""Makes `docs/settings.md` from the declarations; a test compares the two.

`python -m backstop.cli.settings_page > docs/settings.md`
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from backstop.cli.settings_classes import SETTINGS_CLASSES

TITLES = {
    "RuntimeSettings": "All processes",
    "ReceiverSettings": "`backstop serve`",
    "StreamSettings": "`backstop worker`",
    "ProjectionSettings": "`backstop projection`",
    "OutgoingSettings": "`backstop outgoing`",
}
HEAD = """# Settings

A process reads its settings from the environment, once, at start. An invalid value stops the start, and the error names
the setting. `backstop settings` shows the values in force, with secrets hidden. A secret may be read from a file
instead: `NAME_FILE` is its path. This page is made from the declarations (`python -m backstop.cli.settings_page`).
"""


def page() -> str:
    """The whole page, as Markdown."""
    parts = [HEAD]
    shared: set[str] = set()
    for module, name in SETTINGS_CLASSES:
        kind = getattr(import_module(module), name)
        rows = [row for row in _rows(kind) if row[0] not in shared]
        if name == "RuntimeSettings":
            shared = {row[0] for row in rows}
        parts.append(f"## {TITLES[name]}\n| variable | default | |\n|---|---|---|")
        parts += [f"| `{variable}` | {default} | {text} |" for variable, default, text in rows]
        parts.append("")
    return "\n".join(parts)


def _rows(kind: type[BaseSettings]) -> Iterator[tuple[str, str, str]]:
    prefix = str(kind.model_config.get("env_prefix", ""))
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for inner, of in field.annotation.model_fields.items():
                yield f"{prefix}{name}_{inner}".upper(), _default(of), of.description or ""
        else:
            yield _variable(prefix, name, field), _default(field), _described(field)


def _variable(prefix: str, name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"{prefix}{name}".upper()


def _described(field: FieldInfo) -> str:
    text = field.description or ""
    alias = field.validation_alias
    others = [str(choice) for choice in alias.choices[1:]] if isinstance(alias, AliasChoices) else []
    known = [f"`{other}`" for other in others if other.isupper()]
    return f"{text} Also {', '.join(known)}." if known else text


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None or value == () or (hasattr(value, "get_secret_value") and not value.get_secret_value()):
        return "none"
    return f"`{value}`"


if __name__ == "__main__":
    print(page(), end="")
