"""Fallbacks: other models (or service tiers) with which a job's later attempts go out. Rules: docs/fallback.md."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints

from schemas.base import Frozen, Int64, SpanMs

FALLBACKS_MAX: Final = 3
AFTER_MS_MIN: Final = 1_000
AFTER_MS_MAX: Final = 24 * 3_600_000
AFTER_MS: Final = 60_000

FallbackWhy = Literal["lane", "refused"]
"""`lane`: the model's lane had been closed for longer than `after_ms`. `refused`: the model refused for good."""


class Fallback(Frozen):
    """What an attempt asks for instead of what the request says."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    service_tier: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """Absent: that of the request."""


class Fallbacks(Frozen):
    """In which order, and after which wait for a closed lane."""

    to: tuple[Fallback, ...] = Field(default=(), max_length=FALLBACKS_MAX)
    after_ms: SpanMs = AFTER_MS


class FallbackChoice(Fallback):
    """As in a submission or a setting: an unknown field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FallbackRule(Frozen):
    """The fallbacks of jobs that name none, for models that fit a pattern as of file names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    to: tuple[FallbackChoice, ...] = Field(min_length=1, max_length=FALLBACKS_MAX)
    after_ms: int = Field(default=AFTER_MS, ge=AFTER_MS_MIN, le=AFTER_MS_MAX)


class FallbackBrief(Frozen):
    """A fallback that a job took."""

    model: str
    service_tier: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Left out if it is that of the request."""
    instead_of: str
    """The model of the attempts before."""
    from_attempt: Int64
    """The first attempt with this model."""
    why: FallbackWhy
    message: str
    """What happened to the model before, in a sentence."""


def asked_instead(request: Mapping[str, Any], fallback: Fallback) -> dict[str, Any]:
    """The request with what the fallback says."""
    return {**request, **fallback.model_dump(exclude_none=True)}


def fallbacks_of(rules: Iterable[FallbackRule], model: str) -> Fallbacks | None:
    """Of the first rule that fits; None if there is none."""
    rule = next((each for each in rules if fnmatchcase(model, each.model)), None)
    return None if rule is None else Fallbacks(to=rule.to, after_ms=rule.after_ms)
