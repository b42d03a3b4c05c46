"""The declaration of `POST /v1/dead-letters/decide`: body, answer and route."""

from typing import Annotated, Any, Final, Literal, NotRequired, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictBool, StringConstraints, model_validator, with_config
from typing_extensions import TypedDict

from backstop.runtime.http.routes import Answer, Route
from schemas.dead_letters import DeadReason
from schemas.pauses import By, Why

LETTERS_MAX: Final = 50
"""Dead letters of one decision: each is read from its topic."""
ID_CHARS_MAX: Final = 512

LetterId = Annotated[str, StringConstraints(min_length=1, max_length=ID_CHARS_MAX, pattern=r"^[^\x00]+$")]
LetterDecision = Literal["retry", "drop"]

_EXECUTE: Final[Any] = {"required": ["execute"], "properties": {"execute": {"const": True}}}
_WHY: Final[Any] = {"required": ["why"], "properties": {"why": {"type": "string"}}}


class DecideLettersBody(BaseModel):
    """Dead letters, and what to do with them. Without `execute` nothing is changed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True,
        json_schema_extra={"anyOf": [{"not": _EXECUTE}, _WHY]},
    )  # fmt: skip

    ids: Annotated[tuple[LetterId, ...], FailFast()] = Field(min_length=1, max_length=LETTERS_MAX)
    """As `GET /v1/dead-letters` names them."""
    decision: LetterDecision
    """`retry`: put the record back, unchanged, on the topic it came from. `drop`: it is not needed."""
    execute: StrictBool = False
    """Do it. Without it: the plan."""
    why: Why | None = None
    """The reason, kept with the decision; required with `execute`."""
    by: By | None = None
    """The person who decides. Default: the id of the key."""

    @model_validator(mode="after")
    def _reasoned(self) -> Self:
        if self.execute and self.why is None:
            raise ValueError("give why with execute; it is kept with the decision")
        return self


@with_config(ConfigDict(use_attribute_docstrings=True))
class DecidedLetterView(TypedDict):
    """A dead letter that the decision is about."""

    id: str
    reason: DeadReason
    reads_now: str
    """Whether this release can parse the record: `yes`, or why not."""
    topic: NotRequired[str]
    """Where a retry puts it."""


class UndecidedLetterView(TypedDict):
    """One that it is not about, and why."""

    id: str
    because: str


@with_config(ConfigDict(use_attribute_docstrings=True))
class DecisionView(TypedDict):
    """What would be done, or what was done."""

    object: Literal["dead_letter_decision"]
    decision: LetterDecision
    executed: bool
    data: list[DecidedLetterView]
    left_out: list[UndecidedLetterView]
    """Dead letters that are not known, are decided, or can't be read or put back."""


DECIDE: Final = Route(
    "POST", "/v1/dead-letters/decide", name="decideDeadLetters", access="operate", body=DecideLettersBody,
    says="Put dead letters back, or drop them: without `execute` the plan.\n\nA decision is a record beside the dead "
    "letter, with its author and reason. A record that still can't be processed becomes a dead letter again. Dead "
    "letters without a known tenant need the scope `admin`.",
    answers=(Answer(200, "The plan, or what was done.", DecisionView),),
    problems={503: ("busy", "log_unavailable", "reads_unavailable")},
)  # fmt: skip
