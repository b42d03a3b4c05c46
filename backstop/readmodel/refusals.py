"""Creates that the provider refused, counted by minute for the course over time. Pure.

Rules:
- A refusal counts once, by the fold. A fact that it ignores (a repetition, a report after the job's end) is none.
- A create that was not sent (`held`, `unsent`) was not refused by the provider.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from backstop.readmodel.project import Evolved
from backstop.readmodel.spending import MINUTE_MS
from schemas.base import Cause
from schemas.jobs import AttemptRejected, JobFact

NOT_SENT: Final[frozenset[Cause]] = frozenset({"held", "unsent"})


class CreateRefusal(NamedTuple):
    """What refusals are counted by."""

    tenant: str
    minute: int
    """Minutes since 1970-01-01."""
    cause: Cause


@with_config(ConfigDict(use_attribute_docstrings=True))
class RefusedView(TypedDict):
    """Creates that the provider refused, by cause."""

    limited: int
    """A rate limit was reached (429)."""
    overloaded: int
    """The provider had no capacity."""
    other: int


def refusal_of(evolved: Evolved, fact: JobFact) -> CreateRefusal | None:
    """The refusal that a fact tells of, if it does."""
    if not isinstance(fact, AttemptRejected) or fact.cause in NOT_SENT:
        return None
    if evolved.ignored is not None or evolved.row is None:
        return None
    return CreateRefusal(evolved.row.tenant, fact.at_ms // MINUTE_MS, fact.cause)


def refused_view(counts: Mapping[Cause, int]) -> RefusedView:
    limited, overloaded = counts.get("limited", 0), counts.get("overloaded", 0)
    return {"limited": limited, "overloaded": overloaded, "other": sum(counts.values()) - limited - overloaded}
