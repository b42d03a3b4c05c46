"""Secrets from files: a secret setting may also be given as
`NAME_FILE`, the path of a file that an orchestrator mounts.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from backstop.runtime.errors import ConfigurationError

SUFFIX: Final = "_FILE"
SECRET_BYTES_MAX: Final = 65_536


def secret_of(environment: Mapping[str, str], name: str) -> str:
    """The secret in `name`, or in the file that `name_FILE` names; empty if neither is set. A file's lines are joined
    by commas; a JSON object stays as it is.

    :raises ConfigurationError: both are set, or the file can't be read. The message holds nothing of its content.
    """
    given, path = environment.get(name, ""), environment.get(f"{name}{SUFFIX}", "")
    if not path:
        return given
    if given:
        raise ConfigurationError(f"{name} and {name}{SUFFIX} are both set: unset one of them")
    try:
        with Path(path).open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
        text = content.decode("utf-8-sig")  # editors of Windows write a mark first
    except OSError as error:
        raise ConfigurationError(f"{name}{SUFFIX}={path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}{SUFFIX}={path} is not UTF-8 text") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or len(content) > SECRET_BYTES_MAX:
        raise ConfigurationError(f"{name}{SUFFIX}={path} is empty, or has more than {SECRET_BYTES_MAX} bytes")
    return text.strip() if _is_object(text) else ",".join(lines)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(is_secret, get_args(annotation)))


def environment_names(kind: type[BaseSettings], name: str, field: FieldInfo) -> Iterator[str]:
    """The environment variables that may set this field, in upper case."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        yield from (choice for choice in alias.choices if isinstance(choice, str) and choice.isupper())
    else:
        yield f"{kind.model_config.get('env_prefix', '')}{name}".upper()


class SecretFiles(PydanticBaseSettingsSource):
    """A settings source beside the environment."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        for name in environment_names(self.settings_cls, field_name, field):
            if os.environ.get(f"{name}{SUFFIX}"):  # noqa: TID251 - this is a part of the settings classes
                return secret_of(os.environ, name), field_name, False  # noqa: TID251 - as above
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value = self.get_field_value(field, name)[0] if is_secret(field.annotation) else None
            if value is not None:
                alias = field.validation_alias
                found[str(alias.choices[0]) if isinstance(alias, AliasChoices) else name] = value
        return found
