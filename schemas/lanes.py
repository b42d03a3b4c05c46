"""What workers share of lanes on `lanes`: outcomes of creates, and what they want, used and learned of limits.

A lane is an account and a model, or the account with all of its models (`ALL_MODELS`). Each worker folds these facts in
log order (`streams.policy.lanes`), so all workers close and open a lane at the same record, and one worker has the turn
to probe it. The folds of jobs and responses don't read this topic. A record is written only where it changes a lane.
Records older than an hour are not needed: each probe of a closed lane writes a new fact.

Facts of limits (`streams.policy.shared_limits`) change no lane. A lane without limits has none, and one whose limits
are not short has next to none.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import ID_CHARS_MAX, Cause, Frozen, Int64, Message, SpanMs, TenantId

ACCOUNT_PATTERN = r"^[0-9a-f]{8}$"
CODE_CHARS_MAX = 100
WORDS_CHARS_MAX = 300
WORKER_CHARS_MAX = 100
TENANTS_MAX = 200
"""Tenants of one fact; those that want most come first."""
PARTITIONS_MAX = 256
ALL_MODELS = ""
"""In place of a model: the lane that a key, a quota or a bill of the account closes for each model. Callers choose the
names of models, and none is empty."""
PartitionNumber = Annotated[int, Field(ge=0, le=PARTITIONS_MAX - 1)]


def lane_name(model: str) -> str:
    """How logs, metrics and answers name the lane of this model."""
    return "all models" if model == ALL_MODELS else model


class LaneMessage(Message):
    topic: ClassVar[str] = "lanes"
    account: Annotated[str, Field(pattern=ACCOUNT_PATTERN)]
    """A hash of key, organization, project and address: workers with another key have lanes of their own."""
    model: str = Field(max_length=200)
    """Or `ALL_MODELS`."""
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


class WantedPart(Frozen):
    """What a worker wants of the limits of a lane, or of a tenant on it."""

    rate: int = Field(ge=0, le=1_000)
    """Thousandths of the limits of requests and tokens a minute."""
    slots: Int64 = Field(default=0, ge=0)
    """Attempts in flight that it wants."""
    held: Int64 = Field(default=0, ge=0)
    """Attempts that it has in flight."""


class ShareMessage(LaneMessage):
    worker: str = Field(min_length=1, max_length=WORKER_CHARS_MAX)
    """The worker process that writes; another one after a restart."""


class ShareWanted(ShareMessage):
    """What a worker wants of a limited lane."""

    type: Literal["share_wanted"] = "share_wanted"
    partitions: tuple[PartitionNumber, ...] = Field(max_length=PARTITIONS_MAX)
    """Of `jobs`: those that the worker owns."""
    wanted: WantedPart
    tenants: dict[TenantId, WantedPart] = Field(default_factory=dict, max_length=TENANTS_MAX)
    """Of tenants with limits of their own. One that is left out wants a fiftieth of the worker's base share."""
    served: Int64 = Field(default=0, ge=0)
    """Tokens of the creates that were accepted since the worker started, as expected."""
    needs: bool
    """Whether the worker needs more than its base share, so that the others answer."""


class DayUsed(ShareMessage):
    """How many tokens of a day the partitions of a worker used, where a limit of tokens a day is set."""

    type: Literal["day_used"] = "day_used"
    tenant: TenantId | None = None
    """None: of the lane."""
    day: int = Field(ge=0, le=1_000_000)
    """Days since 1970 (UTC)."""
    used: dict[PartitionNumber, Int64] = Field(max_length=PARTITIONS_MAX)
    """By partition: what has ended."""
    reserved: dict[PartitionNumber, Int64] = Field(default_factory=dict, max_length=PARTITIONS_MAX)
    """By partition: what running attempts are expected to use."""


class LimitsLearned(ShareMessage):
    """What answers showed of a lane's limits, for all workers together."""

    type: Literal["limits_learned"] = "limits_learned"
    requests_per_min: Int64 | None = Field(default=None, ge=1)
    """Told by headers."""
    tokens_per_min: Int64 | None = Field(default=None, ge=1)
    found: Int64 | None = Field(default=None, ge=1)
    """The rate of tokens a minute at which to go on after a refusal. None: no refusal."""
    ceiling: Int64 | None = Field(default=None, ge=1)
    """The limit of tokens a minute that two refusals showed."""
    told_ms: SpanMs = 0
    """How long the refusal asked to wait."""


CreateFact = CreateFailed | CreateServed | ProbeClaimed
"""Facts that change a lane."""
LimitFact = ShareWanted | DayUsed | LimitsLearned
LaneFact = CreateFact | LimitFact
LANE_FACT: TypeAdapter[LaneFact] = TypeAdapter(Annotated[LaneFact, Field(discriminator="type")])
