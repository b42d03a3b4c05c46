"""Reads settings from the environment, and turns their errors into sentences."""

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from backstop.runtime.errors import ConfigurationError
from schemas.sentences import sentence

S = TypeVar("S", bound=BaseSettings)


def read(kind: type[S], **overrides: Any) -> S:
    """The settings from the environment; `overrides` win.

    :raises ConfigurationError: names each wrong variable, and never its value, which may be a secret.
    """
    try:
        return kind(**overrides)
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        lines = [
            (f"{prefix}{'.'.join(str(part) for part in problem['loc'])}".upper() + ": " if problem["loc"] else "")
            + sentence(problem)
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise ConfigurationError("settings: " + "; ".join(lines)) from None
