"""The states of a response, and when each of them wants to be woken. What moves it on is in `streams.fold.response`. Pure."""

from dataclasses import dataclass
from typing import Literal, assert_never

from schemas.responses import LAST_POLL_LEAD_MS, WebhookReceived
from schemas.statuses import SettledStatus

WEBHOOKS_REMEMBERED_MAX = 16
"""Webhook ids kept for a response. OpenAI sends one event a response, repeats carry the same id; past this, a further id costs
nothing but one look."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose it is."""

    job_id: str
    attempt: int
    tenant: str
    claimed_at_ms: int
    last_poll_at_ms: int
    missing_grace_ms: int
    forget_after_ms: int
    stream: bool = False
    """Its partial output can be followed while it runs. Decides nothing here."""
    missing_patience_ms: int = 120_000
    stuck_after_ms: int | None = None
    stuck_factor: float | None = None
    include: tuple[str, ...] = ()
    made_elsewhere: bool = False
    """An application created it itself, and asked for it to be adopted."""


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The webhooks that came: ids, so that a repeat is known, and when the first one did."""

    ids: tuple[str, ...] = ()
    first_at_ms: int | None = None
    ended_at_ms: int | None = None

    def add(self, event: WebhookReceived) -> "Webhooks":
        first_at_ms = event.at_ms if self.first_at_ms is None else self.first_at_ms
        ended_at_ms = event.ended_at_ms if self.ended_at_ms is None else self.ended_at_ms
        return Webhooks((*self.ids, event.webhook_id)[-WEBHOOKS_REMEMBERED_MAX:], first_at_ms, ended_at_ms)


@dataclass(frozen=True, slots=True)
class Sight:
    """What the last observations of a running response showed, as far as a decision needs it."""

    status: str | None = None
    since_ms: int | None = None
    """When `status` was seen first."""
    missing_since_ms: int | None = None
    """When the answers began to be 404; None after any other."""
    told: Literal["missing", "stuck"] | None = None
    """The job fold was told so."""


@dataclass(frozen=True, slots=True)
class Absent:
    kind: Literal["absent"] = "absent"


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """Known by a webhook only. `poll_at_ms` is None once a look saw whose it is: then it waits to be claimed or forgotten."""

    first_seen_ms: int
    webhooks: Webhooks
    poll_at_ms: int | None
    forget_at_ms: int
    polls: int = 0
    kind: Literal["unclaimed"] = "unclaimed"


@dataclass(frozen=True, slots=True)
class Running:
    """Claimed, and not known to have ended; the next look is due at `poll_at_ms`."""

    claim: Claim
    poll_at_ms: int
    polls: int = 0
    webhooks: Webhooks = Webhooks()
    sight: Sight = Sight()
    released_at_ms: int | None = None
    kind: Literal["running"] = "running"

    @property
    def over_at_ms(self) -> int:
        """From when on nobody waits for its end: each poll is then a cancel."""
        deadline_ms = self.claim.last_poll_at_ms + LAST_POLL_LEAD_MS
        return deadline_ms if self.released_at_ms is None else min(deadline_ms, self.released_at_ms)


@dataclass(frozen=True, slots=True)
class Ended:
    """Settled; remembered until `forget_at_ms`."""

    claim: Claim
    status: SettledStatus
    forget_at_ms: int
    kind: Literal["ended"] = "ended"


ResponseState = Absent | Unclaimed | Running | Ended


def due_ms(state: ResponseState) -> int | None:
    """When the scheduler is to write the next `ResponseTimerFired`; None only where there is no row."""
    match state:
        case Absent():
            return None
        case Unclaimed():
            return state.forget_at_ms if state.poll_at_ms is None else state.poll_at_ms
        case Running():
            return state.poll_at_ms
        case Ended():
            return state.forget_at_ms
        case _:
            assert_never(state)
