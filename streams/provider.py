"""What the workers ask of a provider, and what its answers mean. Pure.

A provider is one folder that implements `Provider`: `streams/openai` is the first. That folder decides what a status, a
code or a header means. The workers know only the types below.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, Protocol

from schemas.base import Cause, Terms
from schemas.statuses import END_RESPONSE_STATUSES, SeenOutcome
from schemas.told_limits import ToldLimits


@dataclass(frozen=True, slots=True)
class Owner:
    """The job that the response names in its metadata. Any program in the project can write it: a claim, no proof."""

    job_id: str
    attempt: int
    tenant: str


@dataclass(frozen=True, slots=True)
class Tokens:
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """How the response stands. `cause`, `code` and `message` where it failed or is incomplete.

    `odd`: its status is none that we know.
    """

    outcome: SeenOutcome
    raw_status: str
    body: Mapping[str, Any] = field(repr=False)
    """The object as it came; it holds the prompt and the output. Of a large one, what is needed to judge it."""
    whole: bytes | None = field(default=None, repr=False)
    """The canonical JSON of a large object."""
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    said_by: Literal["backstop"] | None = None
    """`backstop`: `message` is Backstop's own text, not the provider's."""
    wait_ms: int = 0
    """The least wait that the failure asked for."""
    code_known: bool = True
    """False where a failure has no code, or one that is on no list: worth counting."""
    usage: Tokens | None = None
    terms: Terms | None = None
    """Set with `usage`."""
    owner: Owner | None = None
    created_at_ms: int | None = None
    ended_at_ms: int | None = None
    poll_after_ms: int = 0
    continuation_id: str | None = None
    progress: int | None = None
    """Tokens and bytes of output that an object without an end shows; None for none."""
    model: str = ""
    """As the object names it; it may be a dated version of what was asked for."""

    @property
    def over(self) -> bool:
        return self.outcome in END_RESPONSE_STATUSES


@dataclass(frozen=True, slots=True)
class Accepted:
    response_id: str
    status: str
    """As the provider said it: one of the six, or an unknown one."""
    provider_request_id: str | None = None
    streamed: bool = False
    end: Seen | None = None
    """The answer already held the end."""
    limits: ToldLimits | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """It was surely not taken. `alarm`: a person must act."""

    cause: Cause
    code: str
    message: str = ""
    wait_ms: int = 0
    alarm: bool = False
    http_status: int | None = None
    limited: bool = False
    """The edge took us for an attack: slow all calls down."""
    unknown_model: bool = False
    """The provider serves no such model to this account."""
    limits: ToldLimits | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have been taken."""

    reason: str
    said: str = ""
    """How the answer began: the provider's words."""
    answered: bool = False
    """With a 5xx that proves nothing: most often nothing was taken."""
    wait_ms: int = 0
    alarm: bool = False
    """A 2xx that can't be used: a person must see it."""
    taken: bool = False
    """It was taken, and nothing names the response: only a webhook can bring it. A repeat would be paid again."""


@dataclass(frozen=True, slots=True)
class Missing:
    """404: not yet, or no more. With a code: the provider, or a proxy before it, refuses the poll otherwise, and will
    refuse it again as long as that lasts.
    """

    code: str | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class AskAgain:
    """No observation. `limited`: a 429 or an edge block, so the global rate must fall."""

    reason: str
    wait_ms: int = 0
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """The provider has the response no more; or it never had it."""


@dataclass(frozen=True, slots=True)
class NotCancelled:
    """The cancel was declined; a poll tells why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The key or the project may not poll: an alarm, as no repeat mends it."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Told:
    """An event to publish."""

    event: dict[str, Any]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Dropped:
    why: Literal["repeat", "unreadable"]


@dataclass(frozen=True, slots=True)
class OpenAgain:
    """The connection is of no further use."""

    why: Literal["disorder", "error_event"]


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The provider's terminal event."""

    number: int


@dataclass(frozen=True, slots=True)
class TooMuch:
    """Beyond what is told in one event, or of one response."""

    why: Literal["event_too_large", "response_too_large"]


@dataclass(frozen=True, slots=True)
class NotStreamable:
    """The provider tells no partial output of this response, now or later."""


StreamStep = Told | Dropped | OpenAgain | StreamEnded | TooMuch


class ResponseStream(Protocol):
    """The partial output of one response, over as many connections as it takes."""

    @property
    def last(self) -> int:
        """Number of the last event told; -1 before the first."""
        ...

    def opened(self) -> AbstractAsyncContextManager[AsyncIterator[StreamStep] | NotStreamable | AskAgain | Refused]:
        """One connection: what comes after `last`, or why nothing does. Raises what broke the connection."""
        ...


class Provider(Protocol):
    """One account of a provider. Each call is one request at most and ends within its time limit. Failures of the
    network and the server are answers, not exceptions.
    """

    @property
    def account(self) -> str:
        """Names the account, of which limits are shared (`account_name`)."""
        ...

    async def create(
        self, request: Mapping[str, Any], *, job_id: str, attempt: int, tenant: str, timeout_ms: int, rest: bytes = b""
    ) -> Accepted | Rejected | Unknown:
        """Begin a response in the background, that names the job, the attempt and the tenant as its owner.

        :param rest: the members of a large request that `request` lacks, as a JSON object; empty if there are none.
        """
        ...

    async def poll(
        self, response_id: str, job_id: str | None, include: Sequence[str] = ()
    ) -> Seen | Missing | AskAgain | Refused:
        """The state of the response. `job_id`: its job, where known. `include`: as in the create."""
        ...

    async def cancel(self, response_id: str, job_id: str | None) -> Seen | NotCancelled | AskAgain | Refused: ...

    async def delete(self, response_id: str) -> Deleted | AskAgain | Refused:
        """Delete the stored response. Idempotent."""
        ...

    async def answers(self) -> bool:
        """Whether the provider answers calls at all, asked by a call that costs nothing. True where nothing shows
        that it would answer such a call.
        """
        ...

    def follow(self, response_id: str, *, event_bytes_max: int, response_bytes_max: int) -> ResponseStream:
        """The partial output of the response, up to these sizes of one event and of all."""
        ...

    async def close(self) -> None: ...


def account_name(*parts: str | None) -> str:
    """Names an account by its address, key, organization and project: 32 bits, from which no key can be made."""
    return blake2b("\0".join(part or "" for part in parts).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Limits of the calls to the provider, which the settings of the workers give."""

    calls_max: int = 128
    """Creates, polls and cancels at one time."""
    poll_timeout_ms: int = 30_000
    streams_max: int = 1
    stream_silence_ms: int = 600_000
    """A stream that is silent for longer is over."""
    answer_bytes_max: int = 64 << 20
    """Of one answer, unpacked."""
    answers_memory_bytes_max: int = 256 << 20
    """Of all answers that are read at one time."""


Operation = Literal["create", "retrieve", "cancel", "delete"]
Alarm = Literal[
    "answer_too_large",
    "blob_missing",
    "blob_store",
    "blob_not_stored",
    "credentials",
    "quota",
    "redirect",
    "proxy",
    "unknown_code",
    "unknown_status",
    "unusable_answer",
]


class CallMetrics(Protocol):
    """Counts of HTTP calls to the provider. Labels are of closed sets."""

    def request(self, operation: Operation, status_class: str, seconds: float) -> None:
        """One call: `status_class` is `2xx` to `5xx`, or the kind of the fault."""

    def alarm(self, kind: Alarm) -> None:
        """An answer on which a person must act, or one of a kind that is not known."""
