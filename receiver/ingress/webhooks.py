"""The ingress of OpenAI's webhooks: `POST /webhooks/openai`.

A request that is not authentic is counted and answered with the same 401 in each case. An authentic one is answered 200
once the log has acknowledged it, even if its body is malformed (it becomes a dead letter), as OpenAI's retries over 72
hours would bring the same body. Events of other types than `response.*` are counted only. The answer is never 410,
which may disable the endpoint, and never 3xx, which OpenAI does not follow.
"""

import asyncio
import base64
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.http.routes import Answer, Header, Route
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from receiver.bodies import NotJsonError, load_json, read_body
from receiver.ingress.signature import NotVerified, Reason, Verified, WebhookKey, verify
from receiver.limits import Limits
from receiver.metrics import ReceiverMetrics, WebhookResult
from receiver.problems import SECURITY_HEADERS, Problem, Refusal, unavailable
from schemas.base import RESPONSE_ID_PATTERN
from schemas.codec import sha256_hex
from schemas.dead_letters import DeadLetter, DeadReason
from schemas.responses import WebhookReceived

PATH = "/webhooks/openai"
UNAUTHENTICATED = Problem(401, "unauthenticated", "The request is not authenticated.")

RECEIVE: Final = Route(
    "POST", PATH, name="receiveWebhook", access="signed", body=Any,
    says="Receive a webhook of OpenAI.\n\nSigned as in Standard Webhooks: `webhook-id`, `webhook-timestamp` and "
    "`webhook-signature`, each once. An authentic body that is not an event becomes a dead letter.",
    headers=(
        Header("webhook-id", "The same on each repeat of a webhook."),
        Header("webhook-timestamp", "Unix seconds; must be close to the receiver's clock."),
        Header("webhook-signature", "`v1,` and an HMAC-SHA256 in base64; several values are separated by spaces."),
    ),
    answers=(Answer(200, "The log has the webhook, or its event type is not of a response."),),
    problems={503: ("log_unavailable",)},
)  # fmt: skip

_RESPONSE_ID = re.compile(RESPONSE_ID_PATTERN)
_EVENT_TYPE = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
_SECONDS_MAX = 100_000_000_000

_RESULTS: dict[Reason, WebhookResult] = {
    "missing_header": "malformed",
    "repeated_header": "malformed",
    "malformed_header": "malformed",
    "stale": "stale",
    "bad_signature": "bad_signature",
}

log = get_logger("receiver.ingress.webhooks")


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """The settings of the webhook ingress."""

    keys: Sequence[WebhookKey]
    tolerance_s: int
    claim_grace_ms: int
    forget_after_ms: int


class WebhookIngress:
    def __init__(
        self, rules: WebhookRules, limits: Limits, publisher: Publisher, now_ms: NowMs, metrics: ReceiverMetrics
    ) -> None:
        self._rules = rules
        self._limits = limits
        self._publisher = publisher
        self._now_ms = now_ms
        self._metrics = metrics
        self._kept: OrderedDict[tuple[str, str], asyncio.Future[bool]] = OrderedDict()
        """Recent webhooks by id and content: whether the log has each. Avoids a record for each replay."""

    async def receive(self, request: web.Request) -> web.Response:
        limits = self._limits
        try:
            body = bytes(await read_body(request, bytes_max=limits.webhook_bytes_max, within_s=limits.webhook_body_s))
        except Refusal as refusal:
            self._metrics.webhook(None, "too_large" if refusal.problem.status == 413 else "malformed")
            raise
        rules, now_ms = self._rules, self._now_ms()
        verdict = verify(body, request.headers.items(), keys=rules.keys, now_ms=now_ms, tolerance_s=rules.tolerance_s)
        if isinstance(verdict, NotVerified):
            self._metrics.webhook(None, _RESULTS[verdict.reason])
            log.debug("webhook_refused", reason=verdict.reason)
            raise Refusal(UNAUTHENTICATED)
        failpoint("receiver.webhook.verified")
        self._metrics.verified(verdict.key_id)
        message = to_message(verdict, body, now_ms, rules, limits.webhook_depth_max)
        if message is None:
            # An event of another API of the project, or a future one: no job depends on it.
            self._metrics.webhook("other", "unknown_type")
        else:
            await self._keep_once((verdict.webhook_id, sha256_hex(body)), message)
        failpoint("receiver.webhook.acked")
        return web.Response(status=200, headers=SECURITY_HEADERS)

    async def _keep_once(self, name: tuple[str, str], message: WebhookReceived | DeadLetter) -> None:
        """:raises Refusal: 503, the log did not acknowledge it."""
        first = self._kept.get(name)
        if first is not None and (not first.done() or first.result()):
            if await asyncio.shield(first):
                self._metrics.webhook(_type_of(message), "repeated")
                return
            raise self._unavailable()
        self._kept[name] = mine = asyncio.get_running_loop().create_future()
        has_it = False
        try:
            await self._keep(message)
            has_it = True
        finally:
            mine.set_result(has_it)  # also when this request is cancelled: concurrent repeats wait for it
            while len(self._kept) > self._limits.webhooks_remembered_max:
                self._kept.popitem(last=False)

    def _unavailable(self) -> Refusal:
        return unavailable(
            "log_unavailable",
            "The log did not acknowledge the webhook in time; send it again: a repeat is harmless.",
            self._limits.retry_after_s,
        )

    async def _keep(self, message: WebhookReceived | DeadLetter) -> None:
        event_type = _type_of(message)
        try:
            await self._publisher.publish([message], timeout_s=self._limits.publish_s)
        except BrokerUnavailableError:
            # The record may still be in the log. The repeat has the same webhook id, which the fold recognizes.
            self._metrics.webhook(event_type, "unavailable")
            raise self._unavailable() from None
        if isinstance(message, WebhookReceived):
            self._metrics.webhook(event_type, "accepted")
            if message.ended_at_ms is not None:
                self._metrics.webhook_lag_seconds.observe(max(0, message.at_ms - message.ended_at_ms) / 1000)
        else:
            self._metrics.webhook(event_type, "malformed")
            log.info("webhook_dead_letter", reason=message.reason, webhook_id=message.id)


def _type_of(message: WebhookReceived | DeadLetter) -> str:
    return message.event_type if isinstance(message, WebhookReceived) else "other"


def to_message(
    verdict: Verified, body: bytes, at_ms: int, rules: WebhookRules, depth_max: int
) -> WebhookReceived | DeadLetter | None:
    """The record for an authentic body; None for an event whose type is not `response.*`. Never raises."""
    try:
        event = load_json(body, depth_max)
    except NotJsonError as error:
        return _dead_letter(verdict, body, at_ms, "not_an_event", str(error))
    if _is_of_another_api(event):
        return None
    event_type, response_id = _named(event)
    if event_type is None:
        return _dead_letter(verdict, body, at_ms, "not_an_event", "type is missing or not an event name")
    if response_id is None:
        return _dead_letter(verdict, body, at_ms, "not_an_event", "data.id is missing or not a response id")
    return WebhookReceived(
        id=f"{verdict.webhook_id}/received",
        at_ms=at_ms,
        response_id=response_id,
        webhook_id=verdict.webhook_id,
        event_type=event_type,
        sent_at_ms=verdict.sent_at_ms,
        ended_at_ms=_milliseconds(event.get("created_at")),
        key_id=verdict.key_id,
        raw=body.decode(),
        claim_by_ms=at_ms + rules.claim_grace_ms,
        forget_after_ms=rules.forget_after_ms,
    )


def _is_of_another_api(event: Any) -> bool:
    """Whether `type` says so, whatever its length and characters: what others name is no matter of dead letters."""
    kind = event.get("type") if isinstance(event, dict) else None
    return isinstance(kind, str) and kind != "" and not kind.startswith("response.")


def _named(event: Any) -> tuple[str | None, str | None]:
    """`type` and `data.id`, each None if it is not well-formed."""
    if not isinstance(event, dict):
        return None, None
    kind, data = event.get("type"), event.get("data")
    response_id = data.get("id") if isinstance(data, dict) else None
    return (
        kind if isinstance(kind, str) and _EVENT_TYPE.fullmatch(kind) else None,
        response_id if isinstance(response_id, str) and _RESPONSE_ID.fullmatch(response_id) else None,
    )


def _milliseconds(seconds: Any) -> int | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < _SECONDS_MAX:
        return None
    return int(seconds * 1000)


def _dead_letter(verdict: Verified, body: bytes, at_ms: int, reason: DeadReason, detail: str) -> DeadLetter:
    headers = {
        "webhook-id": verdict.webhook_id,
        "webhook-timestamp": str(verdict.sent_at_ms // 1000),
        "key-id": verdict.key_id,
        "body-sha256": sha256_hex(body),
    }
    return DeadLetter(
        id=f"{verdict.webhook_id}/set-aside",
        at_ms=at_ms,
        component="receiver",
        reason=reason,
        detail=detail,
        value_base64=base64.b64encode(body).decode(),
        headers=tuple((name, base64.b64encode(value.encode()).decode()) for name, value in headers.items()),
        record_key=verdict.webhook_id,
    )
