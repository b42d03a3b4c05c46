"""Outcomes of creates by lane, which workers share on `lanes`.

A lane is an account and a model. Each worker folds these facts in log order (`streams.policy.lanes`), so all workers
close and open a lane at the same record, and one worker has the turn to probe it. The folds of jobs and responses don't
read this topic. A record is written only where it changes a lane. Records older than an hour are not needed: each probe
of a closed lane writes a new fact.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import ID_CHARS_MAX, Cause, Int64, Message, SpanMs

ACCOUNT_PATTERN = r"^[0-9a-f]{8}$"
CODE_CHARS_MAX = 100
WORDS_CHARS_MAX = 300


class LaneMessage(Message):
    topic: ClassVar[str] = "lanes"
    account: Annotated[str, Field(pattern=ACCOUNT_PATTERN)]
    """A hash of key, organization, project and address: workers with another key have lanes of their own."""
    model: str = Field(min_length=1, max_length=200)
    turn: Int64 = Field(default=0, ge=0)
    """The last probe turn that the writer knew of."""

    @property
    def key(self) -> str:
        return f"{self.account}/{self.model}"


class CreateFailed(LaneMessage):
    """A create, or an accepted response, failed."""

    type: Literal["create_failed"] = "create_failed"
    command_id: str = Field(default="", max_length=ID_CHARS_MAX)
    """The id of the create command; empty where a response failed."""
    cause: Cause
    code: str = Field(default="", max_length=CODE_CHARS_MAX)
    message: str = Field(default="", max_length=WORDS_CHARS_MAX)
    """The provider's message, only for the cause `account`: other messages may quote the request."""
    told_ms: SpanMs = 0
    """The wait that the provider asked for; 0 for none."""


class CreateServed(LaneMessage):
    """A create was accepted, or refused for its content: the provider serves the lane."""

    type: Literal["create_served"] = "create_served"


class ProbeClaimed(LaneMessage):
    """A create asks to be the next probe of a closed lane. The first claim for a `turn` in the log gets it."""

    type: Literal["probe_claimed"] = "probe_claimed"
    turn: Int64 = Field(ge=1)
    command_id: str = Field(min_length=1, max_length=ID_CHARS_MAX)
    answer_ms: SpanMs | None = None
    """The longest time until the outcome of the probe, if its worker lives. None: not known."""


LaneFact = CreateFailed | CreateServed | ProbeClaimed
LANE_FACT: TypeAdapter[LaneFact] = TypeAdapter(Annotated[LaneFact, Field(discriminator="type")])
