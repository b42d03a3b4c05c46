"""The states of a response and their due times. The transitions are in `streams.fold.response`. Pure."""

from dataclasses import dataclass
from typing import Literal, assert_never

from schemas.hedges import HedgePermit
from schemas.responses import LAST_POLL_LEAD_MS, WebhookReceived
from schemas.statuses import SettledStatus

WEBHOOKS_REMEMBERED_MAX = 16
"""Webhook ids remembered for a response: the newest. OpenAI sends one event per response, and repeats have the same id.
A forgotten id that comes again only costs one poll."""


@dataclass(frozen=True, slots=True)
class ResponseClaim:
    """The job and attempt that the response belongs to, with the times and limits for its polling."""

    job_id: str
    attempt: int
    tenant: str
    claimed_at_ms: int
    last_poll_at_ms: int
    missing_grace_ms: int
    forget_after_ms: int
    stream: bool = False
    """Its partial output can be followed while it runs. The fold does not use it."""
    missing_patience_ms: int = 120_000
    stuck_after_ms: int | None = None
    stuck_factor: float | None = None
    include: tuple[str, ...] = ()
    made_elsewhere: bool = False
    """An application created the response and asked Backstop to adopt it."""
    latency_class: tuple[str, ...] = ()
    """For the policy of polls. The fold passes it on."""
    change: int = 0
    """The number of the job's change that `last_poll_at_ms` is of; 0: of its claim."""
    control: bool = False
    """Polled as if no webhook came. The fold passes it on."""


@dataclass(frozen=True, slots=True)
class ReceivedWebhooks:
    """The webhooks received for a response: their ids, to recognise repeats, and the times of the first one."""

    ids: tuple[str, ...] = ()
    first_at_ms: int | None = None
    ended_at_ms: int | None = None

    def add(self, event: WebhookReceived) -> "ReceivedWebhooks":
        first_at_ms = event.at_ms if self.first_at_ms is None else self.first_at_ms
        ended_at_ms = event.ended_at_ms if self.ended_at_ms is None else self.ended_at_ms
        return ReceivedWebhooks((*self.ids, event.webhook_id)[-WEBHOOKS_REMEMBERED_MAX:], first_at_ms, ended_at_ms)


@dataclass(frozen=True, slots=True)
class SeenSoFar:
    """What the last observations of a running response showed, as far as decisions depend on it."""

    status: str | None = None
    since_ms: int | None = None
    """When `status` and `progress` last changed; for the first status, when the response was claimed."""
    missing_since_ms: int | None = None
    """When the current series of 404s began; None after any other observation."""
    refused_since_ms: int | None = None
    """When the current series of polls without an observation began, if one of them was refused."""
    progress: int | None = None
    """The output and usage that it showed, where it shows any before its end."""
    told: Literal["missing", "stuck"] | None = None
    """What the job fold was last told."""


@dataclass(frozen=True, slots=True)
class Hedge:
    """The job may have a second attempt beside this response. Asked for at `ask_at_ms`, if that is known."""

    model: str
    ask_at_ms: int | None
    permit: HedgePermit | None = None
    """Permitted; a poll must show that the response still runs."""
    permitted_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class AbsentResponse:
    kind: Literal["absent"] = "absent"


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """Known only by a webhook, or given back by an adopting job. `poll_at_ms` is None once a poll has shown the owner,
    or after the last poll: then the response waits to be claimed or forgotten.
    """

    first_seen_ms: int
    webhooks: ReceivedWebhooks
    poll_at_ms: int | None
    forget_at_ms: int
    polls: int = 0
    kind: Literal["unclaimed"] = "unclaimed"


@dataclass(frozen=True, slots=True)
class RunningResponse:
    """Claimed, and not known to have ended. The next poll is due at `poll_at_ms`."""

    claim: ResponseClaim
    poll_at_ms: int
    polls: int = 0
    webhooks: ReceivedWebhooks = ReceivedWebhooks()
    sight: SeenSoFar = SeenSoFar()
    released_at_ms: int | None = None
    hedge: Hedge | None = None
    kind: Literal["running"] = "running"

    @property
    def over_at_ms(self) -> int:
        """When jobs stop waiting for the end: at the deadline or the release. From then on each poll is a cancel."""
        deadline_ms = self.claim.last_poll_at_ms + LAST_POLL_LEAD_MS
        return deadline_ms if self.released_at_ms is None else min(deadline_ms, self.released_at_ms)


@dataclass(frozen=True, slots=True)
class Ended:
    """Settled. The row is kept until `forget_at_ms`."""

    claim: ResponseClaim
    status: SettledStatus
    forget_at_ms: int
    kind: Literal["ended"] = "ended"


ResponseState = AbsentResponse | Unclaimed | RunningResponse | Ended


def due_ms(state: ResponseState) -> int | None:
    """When the scheduler must write the next `ResponseTimerFired` (unix ms). Only `AbsentResponse` has no due time."""
    match state:
        case AbsentResponse():
            return None
        case Unclaimed():
            return state.forget_at_ms if state.poll_at_ms is None else state.poll_at_ms
        case RunningResponse():
            ask_at_ms = state.hedge.ask_at_ms if state.hedge is not None else None
            return state.poll_at_ms if ask_at_ms is None else min(state.poll_at_ms, ask_at_ms)
        case Ended():
            return state.forget_at_ms
        case _:
            assert_never(state)
