"""What a fold returns."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from schemas.base import Message

S = TypeVar("S")


class Ignored(StrEnum):
    """Why a fact changed nothing. Named, so that each reason is counted and none is silent."""

    DUPLICATE = "duplicate"
    """Known already."""
    LATE = "late"
    """It would have mattered, and came after the end."""
    STALE = "stale"
    """A timer that the state no longer expects, or word of something that has moved on."""
    CONFLICT = "conflict"
    """The same job id with another body, or from another tenant."""
    IMPOSSIBLE = "impossible"
    """Nobody of ours can have caused it: a forged or foreign record."""
    UNKNOWN_KEY = "unknown_key"
    """A fact of a job or response that does not exist (or was forgotten)."""


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """The next state and what is to be published because of it, in order. `ignored` is set if and only if nothing happened."""

    state: S
    outputs: tuple[Message, ...] = ()
    ignored: Ignored | None = None
