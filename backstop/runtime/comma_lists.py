"""Settings that hold several values: the environment gives them as one string, separated by commas."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from backstop.runtime.addresses import parse_networks

T = TypeVar("T")


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    parse_networks(networks)
    return networks


CommaList = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[CommaList[str], AfterValidator(_networks)]
"""In CIDR notation."""
