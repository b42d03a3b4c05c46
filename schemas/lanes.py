"""What creates met of a lane, as its workers tell one another on `lanes`.

A lane is an account and a model. Each worker folds these facts in the order of the log (`streams.policy.lanes`), so all of them close and open a
lane at the same record, and one of them has the turn to probe it. No fold of a job or of a response reads this topic. A record is written
only where it changes a lane, and nothing needs one that is older than an hour: a closed lane is told of again with each probe.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import ID_CHARS_MAX, Cause, Message, SpanMs

ACCOUNT_PATTERN = r"^[0-9a-f]{8}$"
CODE_CHARS_MAX = 100
WORDS_CHARS_MAX = 300


class LaneMessage(Message):
    topic: ClassVar[str] = "lanes"
    account: Annotated[str, Field(pattern=ACCOUNT_PATTERN)]
    """Names key, organization, project and address without telling them: workers with another key have lanes of their own."""
    model: str = Field(min_length=1, max_length=200)
    turn: int = Field(default=0, ge=0)
    """The last turn to probe that the writer knew of."""

    @property
    def key(self) -> str:
        return f"{self.account}/{self.model}"


class CreateFailed(LaneMessage):
    """A create (or a response that was accepted) failed."""

    type: Literal["create_failed"] = "create_failed"
    command_id: str = Field(default="", max_length=ID_CHARS_MAX)
    """Of the create; empty where a response failed."""
    cause: Cause
    code: str = Field(default="", max_length=CODE_CHARS_MAX)
    message: str = Field(default="", max_length=WORDS_CHARS_MAX)
    """Only of a condition of the account: other words may repeat what a request held."""
    told_ms: SpanMs = 0
    """How long the provider said to wait."""


class CreateServed(LaneMessage):
    """A create was accepted, or refused for what was in it: the provider serves the lane."""

    type: Literal["create_served"] = "create_served"


class ProbeClaimed(LaneMessage):
    """A create asks to be the next probe of a closed lane. Of all that ask for the same `turn`, the first in the log has it."""

    type: Literal["probe_claimed"] = "probe_claimed"
    turn: int = Field(ge=1)
    command_id: str = Field(min_length=1, max_length=ID_CHARS_MAX)


LaneFact = CreateFailed | CreateServed | ProbeClaimed
LANE_FACT: TypeAdapter[LaneFact] = TypeAdapter(Annotated[LaneFact, Field(discriminator="type")])
