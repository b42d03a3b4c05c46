"""Pauses of creates by operators and by budgets, on `pauses`: which creates, since when, by whom and why.

The topic is compacted by what is paused, so that the state of each pause stays for ever, and all actions of the last 90
days. Workers follow it and hold creates back; no fold of jobs reads it.
"""

import hashlib
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from schemas.base import Frozen, KeyId, Message, StampMs, TenantId
from schemas.lanes import ACCOUNT_PATTERN
from schemas.requests import MODEL_CHARS_MAX

PAUSED_CODE = "lane_paused"
"""The reason's code of a job whose create was held by a pause."""
BUDGET_CODE = "budget_spent"
"""What a job waits for where a budget holds its creates, as the API shows it."""

TAG_CHARS_MAX = 64
BY_CHARS_MAX = 100
WHY_CHARS_MAX = 300

Account = Annotated[str, StringConstraints(pattern=ACCOUNT_PATTERN)]
Model = Annotated[str, StringConstraints(min_length=1, max_length=MODEL_CHARS_MAX, pattern=r"^[^\x00]+$")]
TagName = Annotated[str, StringConstraints(min_length=1, max_length=TAG_CHARS_MAX, pattern=r"^[^\x00]+$")]
Why = Annotated[str, StringConstraints(min_length=1, max_length=WHY_CHARS_MAX, pattern=r"\S")]
By = Annotated[str, StringConstraints(min_length=1, max_length=BY_CHARS_MAX, pattern=r"\S")]
PauseId = Annotated[str, StringConstraints(pattern=r"^pause_[0-9a-f]{16}$")]


class PauseScope(Frozen):
    """The creates that a pause holds: those that fit all given fields. Without any field: all creates."""

    account: Account | None = None
    model: Model | None = None
    tenant: TenantId | None = None
    tag: TagName | None = None
    budget: Literal["day", "month"] | None = None
    """The tenant's budget that holds the creates; None for the pause of an operator."""

    @property
    def pause_id(self) -> str:
        """The same for the same scope. Never change its form: pauses in force would be paused twice."""
        form = self.model_dump_json(exclude={"budget"} if self.budget is None else None)
        return f"pause_{hashlib.sha256(form.encode()).hexdigest()[:16]}"

    def takes(self, *, model: str, tenant: str, tags: tuple[str, ...]) -> bool:
        """Whether it holds such a create. The account is left to the caller, who knows its own."""
        return (
            self.model in (None, model) and self.tenant in (None, tenant) and (self.tag is None or self.tag in tags)
        )  # fmt: skip

    @property
    def words(self) -> str:
        """`model gpt-5, tenant acme`."""
        given = [f"{name} {value}" for name, value in self.model_dump().items() if value is not None]
        return ", ".join(given) or "all creates"


class PauseMessage(Message):
    topic: ClassVar[str] = "pauses"
    scope: PauseScope
    by: By
    """The person, as given."""
    asked_by: KeyId | None = None
    """The API key of the request; None in development."""
    why: Why

    @property
    def key(self) -> str:
        return self.scope.pause_id


class CreatesPaused(PauseMessage):
    type: Literal["creates_paused"] = "creates_paused"

    @property
    def words(self) -> str:
        """For people: `paused by Ann: the key is rotated`."""
        return f"paused by {self.by}: {self.why}"


class CreatesResumed(PauseMessage):
    """The pause of this scope has ended. Jobs that it held begin along a ramp."""

    type: Literal["creates_resumed"] = "creates_resumed"
    paused_at_ms: StampMs


PauseFact = CreatesPaused | CreatesResumed
PAUSE_FACT: TypeAdapter[PauseFact] = TypeAdapter(Annotated[PauseFact, Field(discriminator="type")])
