"""A provider in virtual time, with a ledger: accepts, runs, ends and forgets responses, and sends unreliable webhooks.

It shares no code with the system. `ledger` holds each accepted create, and I3 is checked against it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from streams.openai.answers import Fault, ProviderAnswer, Reply
from streams.openai.foreign_json import NOT_JSON
from tests.simulation.chaos import EPOCH_MS, Chaos, Life

CREATE_TIMEOUT_S = 3.0
POLL_TIMEOUT_S = 2.0

CREATE_FAULTS = (
    "never_sent", "lost", "accepted_lost", "timeout", "accepted_timeout", "accepted_empty", "empty", "accepted_html",
    "accepted_500", "500", "503_overloaded", "429", "429_long", "429_quota", "html_403", "400", "307", "accepted_slow",
    "accepted_unknown_status", "accepted_408", "accepted_ended",
)  # fmt: skip
POLL_FAULTS = (
    "lost", "timeout", "404", "html", "empty", "unknown_status", "regress", "another_id", "500", "429", "401",
    "no_output",
)  # fmt: skip
CANCEL_FAULTS = ("400", "404", "409", "runs_on", "accepted_lost", "lost", "500")
ENDS = (
    "failed", "failed_never", "failed_reset", "failed_no_code", "incomplete", "cancelled", "empty", "stuck", "expires",
)  # fmt: skip

AFTER_ACCEPTANCE: Mapping[str, tuple[str | None, bool]] = {
    "failed_overloaded": ("server_is_overloaded", False), "failed_slow_down": ("slow_down", False),
    "failed_server": ("server_error", False), "failed_limit": ("rate_limit_exceeded", False),
    "failed_limit_paid": ("rate_limit_exceeded", True), "failed_quota": ("insufficient_quota", False),
    "failed_context": ("context_length_exceeded", False), "failed_policy": ("content_policy_violation", False),
    "failed_unknown": ("flux_capacitor_error", False),
}  # fmt: skip
"""Failures by code, and whether they have usage. They and the oddities below are drawn in seeds with a share of
`outlast`, or requested by `run_only`. Oddities: `output` null or absent, an unknown status, another id in polls.
"""
ODDITIES: Mapping[str, Mapping[str, Any]] = {
    "output_null": {"output": None}, "output_absent": {}, "odd_status": {"status": "done"},
    "other_id": {"id": "resp_of_the_server"},
}  # fmt: skip

LATER = ("401", "429_billing", "503_wait", "529", "502", "504", "400_locked", "400_queue_full", "200_error")
"""Passing refusals of creates, drawn in the same seeds."""

Webhook = Callable[[str, str, str, int], None]
"""Delivers now: (webhook id, type, response id, end of the response in ms)."""


@dataclass(slots=True)
class Response:
    id: str
    job_id: str
    attempt: str
    tenant: str
    created_s: float
    starts_s: float
    ends_s: float
    end: str
    seen_after_s: float
    """Before that a poll gets a 404."""
    gone_s: float = float("inf")
    cancelled: bool = False
    shown_end: bool = False

    def status(self, now_s: float) -> str:
        if self.cancelled:
            return "cancelled"
        if now_s < self.starts_s:
            return "queued"
        if now_s < self.ends_s or self.end == "stuck":
            return "in_progress"
        return {"incomplete": "incomplete", "cancelled": "cancelled"}.get(
            self.end, "failed" if self.end.startswith("failed") else "completed"
        )


@dataclass(slots=True)
class Provider:
    chaos: Chaos
    webhook: Webhook
    ledger: list[tuple[str, str, str]] = field(default_factory=list)
    """(job, attempt, response id) of each accepted create, in order."""
    waits: Callable[[str, str], bool] = lambda _job_id, _attempt: False
    """Whether the log has no grant for this attempt of a job. Then its create is among `ungranted`."""
    ungranted: list[str] = field(default_factory=list)
    responses: dict[str, Response] = field(default_factory=dict)
    polls: Counter[str] = field(default_factory=Counter)
    """The number of polls of each response."""
    creates: Counter[int] = field(default_factory=Counter)
    """Creates by minute of the run, with those that were refused or lost."""

    def accept(self, job_id: str, attempt: str, tenant: str) -> Response:
        chaos, random = self.chaos, self.chaos.random
        now_s = chaos.loop.time()
        response_id = f"resp_{len(self.ledger)}"
        odd = chaos.random.random() < chaos.mixture.run_odd
        end = (chaos.mixture.run_only or random.choice(ENDS)) if odd else "completed"
        if odd and not chaos.mixture.run_only and chaos.chance(chaos.mixture.outlast):
            end = random.choice((*AFTER_ACCEPTANCE, *ODDITIES))
        queue_s, run_s = random.choice((0.1, 0.5, 3.0)), min(60.0, random.lognormvariate(1.0, 1.0))
        response = Response(
            response_id, job_id, attempt, tenant, now_s, now_s + queue_s, now_s + queue_s + run_s, end,
            seen_after_s=now_s + (2.0 if chaos.chance(chaos.mixture.poll_fault / 2) else 0.0),
        )  # fmt: skip
        if end == "expires":
            response.gone_s = response.ends_s + random.choice((0.0, 5.0))
        chaos.met.add(f"run {end}")
        self.ledger.append((job_id, attempt, response_id))
        if self.waits(job_id, attempt):
            self.ungranted.append(job_id)
        self.responses[response_id] = response
        self._plan_webhook(response)
        return response

    def elsewhere(self, name: str, random: Random) -> Response:
        """An application creates a response itself. It is not our create, so the ledger does not hold it."""
        now_s = self.chaos.loop.time()
        run_s = random.choice((0.0, 2.0, 20.0))
        end = random.choice(("completed", "completed", "failed", "incomplete", "cancelled"))
        response = Response(name, "", "", "", now_s, now_s, now_s + run_s, end, seen_after_s=now_s)
        self.responses[name] = response
        self._plan_webhook(response)
        return response

    def away(self) -> Reply | None:
        """Count this create. Returns the answer that all creates get now, if there is one."""
        self.creates[int(self.chaos.loop.time() // 60)] += 1
        kind = self.outage()
        if not kind:
            return None
        self.chaos.met.add(f"provider away {kind}")
        return HEARD[kind.removeprefix(POLLS_TOO)]

    def outage(self) -> str:
        """What is answered now; empty if there is no outage."""
        now_s = self.chaos.loop.time()
        for from_s, to_s, kind in self.chaos.mixture.provider_away:
            if from_s <= now_s < to_s:
                return kind
        return ""

    def cancel(self, response: Response) -> None:
        """End the response, unless it has ended."""
        now_s = self.chaos.loop.time()
        if response.status(now_s) in ("queued", "in_progress"):
            response.cancelled = True
            response.ends_s = now_s
            self._plan_webhook(response)

    def _plan_webhook(self, response: Response) -> None:
        chaos, mixture, random = self.chaos, self.chaos.mixture, self.chaos.random
        if response.end == "stuck" and not response.cancelled:
            return
        if chaos.chance(mixture.webhook_lost):
            chaos.met.add("webhook lost")
            return
        wait_s = max(0.0, response.ends_s - chaos.loop.time()) + 0.05 + mixture.webhook_late_s
        oddity = random.choice(("twice", "late", "early", "reordered", "unknown_type", "foreign")) if chaos.chance(
            mixture.webhook_odd) else ""  # fmt: skip
        number = len(self.responses)
        webhook_id = f"wh_{number}_{response.id}_{int(response.cancelled)}"
        if oddity:
            chaos.met.add(f"webhook {oddity}")
        match oddity:
            case "late":
                wait_s += random.choice((5.0, 30.0, 90.0))
            case "early":
                wait_s = 0.0
            case "reordered":
                wait_s += random.random() * 5
            case "twice":
                self._webhook_in(wait_s + random.random() * 9, webhook_id, "response.completed", response)
            case "unknown_type":
                self._webhook_in(wait_s, f"{webhook_id}_x", "response.pondered", response)
            case "foreign":
                # Foreign; or its metadata name another tenant, or an attempt that was not requested.
                says = random.choice(
                    (("", "", ""), (response.job_id, "1", "other"), (response.job_id, "99", "default"))
                )
                stranger = Response(f"{response.id}_strange", *says, 0, 0, 0, "completed", 0)
                if random.random() < 0.5:
                    self.responses[stranger.id] = stranger
                self._webhook_in(wait_s, f"{webhook_id}_f", "response.completed", stranger)
            case _:
                pass
        self._webhook_in(wait_s, webhook_id, "response.completed", response)

    def _webhook_in(self, wait_s: float, webhook_id: str, kind: str, response: Response) -> None:
        self.chaos.loop.call_later(wait_s, self._send_webhook, webhook_id, kind, response)

    def _send_webhook(self, webhook_id: str, kind: str, response: Response) -> None:
        if response.cancelled and not webhook_id.endswith("_1"):
            return  # The cancel came first, so the planned end did not happen.
        self.webhook(webhook_id, kind, response.id, self._clock_s(response.ends_s) * 1000)

    def _clock_s(self, at_s: float) -> int:
        """The provider's clock at a time of the loop, in seconds."""
        return EPOCH_MS // 1000 + int(at_s + self.chaos.mixture.clock_s)

    def shown(self, response: Response, **changes: Any) -> dict[str, Any]:
        """The object as the API returns it."""
        now_s = self.chaos.loop.time()
        status = response.status(now_s)
        ended = status not in ("queued", "in_progress")
        response.shown_end |= ended
        whose = (response.job_id, response.attempt, response.tenant)
        metadata = dict(zip(("backstop_job", "backstop_attempt", "backstop_tenant"), whose, strict=True))
        body: dict[str, Any] = {
            "id": response.id,
            "object": "response",
            "status": status,
            "created_at": self._clock_s(response.created_s),
            "metadata": metadata if response.job_id else {},
            "output": [{"type": "message"}] if status == "completed" and response.end != "empty" else [],
        }
        if ended:
            body["usage"] = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
            body["completed_at"] = self._clock_s(response.ends_s)
        if status == "failed":
            codes = {"failed": "server_error", "failed_never": "invalid_prompt", "failed_reset": "rate_limit_exceeded"}
            body["error"] = {"code": codes[response.end], "message": "no"} if response.end in codes else None
            if response.end in AFTER_ACCEPTANCE:
                code, has_usage = AFTER_ACCEPTANCE[response.end]
                body["error"] = {"code": code, "message": "Please try again in 20s."}
                body["usage"] = body["usage"] if has_usage else None
        if status == "incomplete":
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        if ended and response.end in ODDITIES and not response.cancelled:
            body |= ODDITIES[response.end]
            if response.end == "output_absent":
                del body["output"]
        return body | changes


def _error(status: int, code: str, headers: Mapping[str, str] | None = None) -> ProviderAnswer:
    return ProviderAnswer(status, headers or {}, {"error": {"code": code, "message": "no"}})


POLLS_TOO = "polls too: "
"""Begins the name of an outage that answers polls in the same way as creates."""

HEARD: dict[str, Reply] = {
    "never_sent": Fault("never_sent"),
    "lost": Fault("lost"),
    "unexpected": Fault("unexpected"),
    "timeout": Fault("timeout"),
    "408": _error(408, "timeout"),
    "500": _error(500, "server_error"),
    "502": ProviderAnswer(502, {}, NOT_JSON),
    "503": _error(503, "server_error"),
    "504": ProviderAnswer(504, {}, NOT_JSON),
    "503_overloaded": _error(503, "server_is_overloaded", {"retry-after": "1"}),
    "429": _error(429, "rate_limit_exceeded", {"retry-after": "0.5"}),
    "429_long": _error(429, "rate_limit_exceeded", {"retry-after": "20"}),
    "429_quota": _error(429, "insufficient_quota"),
    "429_billing": _error(429, "billing_not_active"),
    "503_wait": _error(503, "slow_down", {"retry-after": "10"}),
    "529": ProviderAnswer(529, {}, NOT_JSON),
    "400_locked": _error(400, "conversation_locked"),
    "400_queue_full": ProviderAnswer(400, {}, {"detail": "The queue is full. Try again later."}),
    "200_error": ProviderAnswer(
        200, {}, {"error": {"code": "server_error", "message": "no", "type": "server_error", "param": None}}
    ),
    "html_403": ProviderAnswer(403, {}, NOT_JSON),
    "400": _error(400, "invalid_request"),
    "401": _error(401, "invalid_api_key"),
    "404": _error(404, "not_found"),
    "409": _error(409, "conflict"),
    "307": ProviderAnswer(307, {}, NOT_JSON),
    "empty": ProviderAnswer(200, {}, {}),
    "html": ProviderAnswer(200, {}, NOT_JSON),
    "null": ProviderAnswer(200, {}, None),
    "list": ProviderAnswer(200, {}, [1]),
    "no_content": ProviderAnswer(204, {}, NOT_JSON),
}
"""Fault of a call → the reply that the client gets."""


class Client:
    """`streams.openai.client.OpenAIClient` of one life: each failure is returned as data."""

    def __init__(self, life: Life, provider: Provider, *, repeats: bool = False) -> None:
        self._life = life
        self._provider = provider
        self._repeats = repeats

    async def create(
        self, request: Mapping[str, Any], *, job_id: str, attempt: int, tenant: str, timeout_ms: int, rest: bytes = b""
    ) -> Reply:
        reply = await self._create(job_id, str(attempt), tenant)
        if self._repeats and isinstance(reply, Fault):
            reply = await self._create(job_id, str(attempt), tenant)
        return reply

    async def _create(self, job_id: str, attempt: str, tenant: str) -> Reply:
        life, chaos = self._life, self._life.chaos
        if (heard := self._provider.away()) is not None:
            await life.point("create.send")
            await life.point("create.answer")
            return heard
        fault = ""
        if chaos.chance(chaos.mixture.create_fault):
            fault = chaos.mixture.create_only or chaos.random.choice(CREATE_FAULTS)
            if not chaos.mixture.create_only and chaos.chance(chaos.mixture.outlast):
                fault = chaos.random.choice(LATER)
        await life.point("create.send")
        if fault:
            chaos.met.add(f"create {fault}")
        if fault and not fault.startswith("accepted"):
            if fault == "timeout":
                await asyncio.sleep(CREATE_TIMEOUT_S)
            await life.point("create.answer")
            return HEARD[fault]
        response = self._provider.accept(job_id, attempt, tenant)
        if fault == "accepted_ended":
            response.starts_s = response.ends_s = chaos.loop.time()
        if fault == "accepted_slow":
            await asyncio.sleep(CREATE_TIMEOUT_S * 0.9)
        if fault == "accepted_timeout":
            await asyncio.sleep(CREATE_TIMEOUT_S)
        await life.point("create.answer")
        if fault == "accepted_unknown_status":
            return ProviderAnswer(200, {}, self._provider.shown(response, status="pondering"))
        if fault in ("accepted_409", "accepted_503"):  # An error object would say that it was not accepted.
            return ProviderAnswer(int(fault.removeprefix("accepted_")), {}, NOT_JSON)
        return HEARD.get(fault.removeprefix("accepted_")) or ProviderAnswer(200, {}, self._provider.shown(response))

    async def retrieve(self, response_id: str, include: Sequence[str] = ()) -> Reply:
        life, chaos = self._life, self._life.chaos
        await life.point("poll.send")
        outage = self._provider.outage()
        if outage.startswith(POLLS_TOO):
            return HEARD[outage.removeprefix(POLLS_TOO)]
        self._provider.polls[response_id] += 1
        fault = ""
        if chaos.chance(chaos.mixture.poll_fault):
            fault = chaos.mixture.poll_only or chaos.random.choice(POLL_FAULTS)
        reply = self._poll(response_id, fault)
        if fault:
            chaos.met.add(f"poll {fault}")
        if fault == "timeout":
            await asyncio.sleep(POLL_TIMEOUT_S)
        await life.point("poll.answer")
        return reply

    def _poll(self, response_id: str, fault: str) -> Reply:
        now_s = self._life.chaos.loop.time()
        response = self._provider.responses.get(response_id)
        if fault == "timeout":
            return Fault("timeout")
        if fault in HEARD:
            return HEARD[fault]
        if response is None or now_s < response.seen_after_s or now_s >= response.gone_s:
            self._life.chaos.met.add("poll found nothing")
            return HEARD["404"]
        match fault:
            case "unknown_status":
                return ProviderAnswer(200, {}, self._provider.shown(response, status="pondering"))
            case "regress" if response.shown_end:
                return ProviderAnswer(200, {}, self._provider.shown(response, status="in_progress", output=[]))
            case "another_id":
                return ProviderAnswer(200, {}, self._provider.shown(response, id="resp_other"))
            case "no_output":
                return ProviderAnswer(200, {}, self._provider.shown(response, output=None))
            case _:
                return ProviderAnswer(200, {}, self._provider.shown(response))

    async def cancel(self, response_id: str) -> Reply:
        life, chaos = self._life, self._life.chaos
        await life.point("cancel.send")
        response = self._provider.responses.get(response_id)
        fault = chaos.random.choice(CANCEL_FAULTS) if chaos.chance(chaos.mixture.cancel_fault) else ""
        if fault:
            chaos.met.add(f"cancel {fault}")
        if response is None or chaos.loop.time() >= response.gone_s:
            reply: Reply = HEARD["404"]
        elif fault in HEARD:
            reply = HEARD[fault]
        elif fault == "runs_on":
            reply = ProviderAnswer(200, {}, self._provider.shown(response))
        else:
            self._provider.cancel(response)
            reply = (
                Fault("lost") if fault == "accepted_lost" else ProviderAnswer(200, {}, self._provider.shown(response))
            )
            if chaos.chance(chaos.mixture.cancel_fault / 3) and response.cancelled:
                chaos.met.add("cancelled then completed")
                response.cancelled = False
                response.end = "completed"
                response.ends_s = chaos.loop.time() + 2.0
        await life.point("cancel.answer")
        return reply
