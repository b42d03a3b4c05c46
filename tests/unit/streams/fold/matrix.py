"""A line of a matrix: a state, a fact, and the step that must come of them."""

from dataclasses import dataclass
from typing import Any

from schemas.base import Message
from streams.fold.step import Ignored, Step


@dataclass(frozen=True)
class Case:
    said: str
    given: Any
    when: Message
    then: Step[Any]


def ignored(said: str, given: Any, when: Message, reason: Ignored) -> Case:
    return Case(said, given, when, Step(given, ignored=reason))
