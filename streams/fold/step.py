"""The result of folding one fact. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from schemas.base import Message

S = TypeVar("S")


class Ignored(StrEnum):
    """Why a fact changed nothing. Each reason has a name, so that it is counted."""

    DUPLICATE = "duplicate"
    """The fact is already known."""
    LATE = "late"
    """The fact came after the end."""
    STALE = "stale"
    """A timer that the state no longer expects, or a report about something that has moved on."""
    CONFLICT = "conflict"
    """The same job or response id, but another content, job or tenant."""
    IMPOSSIBLE = "impossible"
    """No component of Backstop can have caused it: a forged or foreign record."""
    UNKNOWN_KEY = "unknown_key"
    """A fact of a job or response that does not exist, or was forgotten."""


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """The next state, and the messages to publish, in order. `ignored` is set if and only if nothing changed."""

    state: S
    outputs: tuple[Message, ...] = ()
    ignored: Ignored | None = None
