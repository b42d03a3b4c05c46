"""The declaration of `/v1/status`: its answer and its route."""

from typing import Final, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from backstop.runtime.http.routes import Answer, Route
from schemas.base import Cause

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)


@with_config(_DOCUMENTED)
class BrokerView(TypedDict):
    """The Kafka brokers as this process sees them."""

    answers: bool
    brokers: int
    """Brokers of the cluster at the last answer."""
    since_ms: NotRequired[int]
    """Since when they do not answer."""
    because: NotRequired[str]


@with_config(_DOCUMENTED)
class ProcessView(TypedDict):
    """A process that reads from the broker, or the one that answers."""

    name: str
    """Host and process id; the client id of a client that is no process of this release."""
    version: NotRequired[str]
    parts: list[str]
    """The consumer groups that it is in; `serve` for the process that answers."""
    address: NotRequired[str]
    """The address from which it is connected to the broker."""
    partitions: list[str]
    """The partitions that it holds: `jobs/0`."""


@with_config(_DOCUMENTED)
class PartitionView(TypedDict):
    """A partition as one consumer group reads it."""

    group: str
    topic: str
    partition: int
    holder: NotRequired[str]
    """The name of the process that holds it. Left out where there is none."""
    unassigned_since_ms: NotRequired[int]
    """Since when there is none."""
    lag: int
    """Records that are not read yet."""
    moved_at_ms: int
    """When its reader last moved, or had nothing left to read."""


@with_config(_DOCUMENTED)
class ReadModelView(TypedDict):
    """How far the read model, from which this API answers, is behind the logs."""

    lag: int
    """Records that it has not read yet."""
    delay_ms: int
    """For how long it has not moved although records wait; 0 if it moves."""


@with_config(_DOCUMENTED)
class ClosedLaneView(TypedDict):
    """A closed lane: creates of this model wait, but for one probe at a time."""

    model: str
    account: str
    since_ms: int
    probe_at_ms: int
    """When the next probe is sent, if none is on its way."""
    cause: Cause
    code: str
    message: str


@with_config(_DOCUMENTED)
class StatusView(TypedDict):
    """The processes of this Backstop, and what holds them up."""

    object: Literal["status"]
    at_ms: int
    seen_at_ms: int
    """When the broker last told of its groups; 0: not yet."""
    wrong: list[str]
    """What holds jobs up, a sentence each; empty if nothing does."""
    broker: BrokerView
    readmodel: ReadModelView
    polls_per_s: float
    """Commands to poll or cancel that were finished in the last minute, per second."""
    processes: list[ProcessView]
    partitions: list[PartitionView]
    lanes: list[ClosedLaneView]


GET_STATUS: Final = Route(
    "GET", "/v1/status", name="getStatus", access="operate",
    says="The processes of this Backstop, the partitions that they hold, how far each is behind, closed lanes, and "
    "what holds jobs up.\n\nWhat the broker tells is at most a few seconds old; a partition that no process holds is "
    "named when the broker notices, which takes a session timeout (15 s for a worker). The scope `operate` is needed, "
    "as the answer concerns all tenants.",
    answers=(Answer(200, "The status.", StatusView),),
)  # fmt: skip
