"""The handlers of `/v1/webhook_endpoints`: where a tenant's outgoing webhooks go. See
`receiver.ingress.endpoint_routes`.

A registration is a fact on `webhook-endpoints`, a test or a resend a fact on `deliveries`; `backstop outgoing`
delivers.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

import orjson
from aiohttp import web

from backstop.outgoing.deliveries import asked, asked_test
from backstop.outgoing.endpoints import Endpoint, Endpoints
from backstop.outgoing.secrets import SecretKeys
from backstop.runtime.addresses import EgressRules
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.sources import Sources
from receiver.access.identity import tenant_of
from receiver.bodies import parse_body, read_body, require_json
from receiver.ingress.endpoint_routes import (
    EndpointBody,
    EndpointChange,
    EndpointDocument,
    EndpointsDocument,
    RemovedDocument,
    ResendBody,
    RotateBody,
    SendingDocument,
    TestBody,
)
from receiver.limits import Limits
from receiver.lookups import JobReads, ReadsAwayError
from receiver.problems import SECURITY_HEADERS, FieldError, Problem, Refusal, reads_away, unavailable
from schemas.base import Message
from schemas.deliveries import ResendAsked
from schemas.job_ids import qualified_job_id
from schemas.webhook_endpoints import (
    EVENT_TYPES,
    EndpointRemoved,
    EndpointSaved,
    EndpointSwitched,
    EventType,
    SecretRef,
)

ID_BITS: Final = 128
NONCE_BITS: Final = 96
OLD_SECRET_MS: Final = 24 * 3_600_000
BODY_BYTES_MAX: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class EndpointRegistry:
    """The endpoints, and the keys of their secrets."""

    endpoints: Endpoints
    secrets: SecretKeys


class EndpointIngress:
    """Without a registry outgoing webhooks are off, and each route answers 404 `webhooks_off`."""

    def __init__(
        self, *, registry: EndpointRegistry | None, rules: EgressRules, reads: JobReads | None, publisher: Publisher,
        limits: Limits, endpoints_max: int, sources: Sources,
    ) -> None:  # fmt: skip
        self._registry = registry
        self._rules = rules
        self._reads = reads
        self._publisher = publisher
        self._limits = limits
        self._endpoints_max = endpoints_max
        self._now_ms = sources.now_ms
        self._random_hex = sources.random_hex
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """A lock per tenant: each change starts from the last acknowledged state."""

    async def register(self, request: web.Request) -> web.Response:
        tenant, secrets = tenant_of(request), self._on()
        asked_for = parse_body(EndpointBody, await self._body(request), self._limits.submit_depth_max)
        self._check_url(asked_for.url)
        async with self._turn_of(request):
            endpoints = await self._known()
            if len(endpoints.book.registered(tenant)) >= self._endpoints_max:
                raise Refusal(
                    Problem(
                        409,
                        "too_many_endpoints",
                        f"This tenant has {self._endpoints_max} webhook endpoints, the limit; remove one first.",
                    )
                )
            endpoint_id, at_ms = f"we_{self._random_hex(ID_BITS)}", self._now_ms()
            saved = EndpointSaved(
                id=f"{endpoint_id}/{at_ms}", at_ms=at_ms, endpoint_id=endpoint_id, tenant=tenant, created_at_ms=at_ms,
                url=asked_for.url, name=asked_for.name, event_types=_ordered(asked_for.event_types),
                secrets=(SecretRef(key_id=secrets.current_id, number=1),),
            )  # fmt: skip
            await self._publish(saved)
        return _json(self._shown(Endpoint(endpoint_id, saved), secret=True))

    async def list_all(self, request: web.Request) -> web.Response:
        tenant, _ = tenant_of(request), self._on()
        data = [self._shown(one) for one in (await self._known()).book.registered(tenant)]
        ids = [one["id"] for one in data]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        answer: EndpointsDocument = {
            "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": False,
        }  # fmt: skip
        return _json(answer)

    async def show(self, request: web.Request) -> web.Response:
        self._on()
        return _json(self._shown(await self._named(request)))

    async def change(self, request: web.Request) -> web.Response:
        self._on()
        wanted = parse_body(EndpointChange, await self._body(request), self._limits.submit_depth_max)
        if wanted.url is not None:
            self._check_url(wanted.url)
        async with self._turn_of(request):
            endpoint, saved = await self._found(request)
            facts: list[Message] = []
            changed = {
                name: value
                for name, value in (("url", wanted.url), ("name", wanted.name))
                if value is not None and value != getattr(saved, name)
            }  # fmt: skip
            event_types = saved.event_types if wanted.event_types is None else _ordered(wanted.event_types)
            if changed or event_types != saved.event_types:
                saved = self._again(saved, **changed, event_types=event_types)
                facts.append(saved)
            enabled = endpoint.enabled if wanted.enabled is None else wanted.enabled
            if enabled is not endpoint.enabled:
                facts.append(self._switched(saved, enabled=enabled))
            if facts:
                await self._publish(*facts)
        because = "" if enabled else endpoint.disabled_because or _BY_HAND
        return _json(self._shown(Endpoint(endpoint.id, saved, enabled, because)))

    async def remove(self, request: web.Request) -> web.Response:
        self._on()
        async with self._turn_of(request):
            endpoint, saved = await self._found(request)
            at_ms = self._now_ms()
            await self._publish(
                EndpointRemoved(
                    id=f"{endpoint.id}/removed", at_ms=at_ms, endpoint_id=endpoint.id, tenant=saved.tenant,
                    removed_at_ms=at_ms,
                )
            )  # fmt: skip
        answer: RemovedDocument = {"id": endpoint.id, "object": "webhook_endpoint.deleted", "deleted": True}
        return _json(answer)

    async def rotate(self, request: web.Request) -> web.Response:
        secrets = self._on()
        wanted = parse_body(RotateBody, await self._body(request) or b"{}", self._limits.submit_depth_max)
        async with self._turn_of(request):
            endpoint, saved = await self._found(request)
            old = saved.secrets[0]
            refs = [SecretRef(key_id=secrets.current_id, number=old.number + 1)]
            if wanted.keep_old_secret_active_for_24_hours:
                refs.append(old.model_copy(update={"until_ms": self._now_ms() + OLD_SECRET_MS}))
            saved = self._again(saved, secrets=tuple(refs))
            await self._publish(saved)
        return _json(
            self._shown(Endpoint(endpoint.id, saved, endpoint.enabled, endpoint.disabled_because), secret=True)
        )

    async def test(self, request: web.Request) -> web.Response:
        self._on()
        wanted = parse_body(TestBody, await self._body(request) or b"{}", self._limits.submit_depth_max)
        endpoint, saved = await self._live(request)
        fact = asked_test(endpoint.id, saved.tenant, wanted.event_type, self._random_hex(NONCE_BITS), self._now_ms())
        await self._publish(fact)
        answer: SendingDocument = {
            "object": "webhook_endpoint.test", "webhook_endpoint_id": endpoint.id, "delivery_id": fact.delivery_id,
            "resend_id": None,
        }  # fmt: skip
        return _json(answer, 202)

    async def resend(self, request: web.Request) -> web.Response:
        self._on()
        wanted = parse_body(ResendBody, await self._body(request), self._limits.submit_depth_max)
        endpoint, saved = await self._live(request)
        now_ms = self._now_ms()
        answer: SendingDocument = {
            "object": "webhook_endpoint.resend", "webhook_endpoint_id": endpoint.id, "delivery_id": None,
            "resend_id": None,
        }  # fmt: skip
        if wanted.job_id is not None:
            one = await self._asked(wanted.job_id, saved, now_ms)
            answer["delivery_id"] = one.key
            await self._publish(one)
        else:
            since_ms = min(wanted.since_ms or 0, now_ms)
            all_since = ResendAsked(
                id=f"resend/{endpoint.id}/{now_ms}", at_ms=now_ms, endpoint_id=endpoint.id, tenant=saved.tenant,
                since_ms=since_ms, until_ms=now_ms,
            )  # fmt: skip
            answer["resend_id"] = all_since.id
            await self._publish(all_since)
        return _json(answer, 202)

    async def _asked(self, job_id: str, saved: EndpointSaved, now_ms: int) -> Message:
        if self._reads is None:
            raise reads_away(self._limits.retry_after_s)
        try:
            seen = await self._reads.job(saved.tenant, qualified_job_id(saved.tenant, job_id))
        except ReadsAwayError:
            raise reads_away(self._limits.retry_after_s) from None
        if seen is None:
            raise Refusal(Problem(404, "job_not_found", "There is no such job."))
        if seen.result is None:
            raise Refusal(Problem(409, "job_open", "The job has not ended yet; its event is sent when it ends."))
        return asked(seen.result, saved.endpoint_id, now_ms)

    def _turn_of(self, request: web.Request) -> asyncio.Lock:
        return self._turns.setdefault(tenant_of(request), asyncio.Lock())

    def _on(self) -> SecretKeys:
        if self._registry is None:
            raise Refusal(
                Problem(
                    404, "webhooks_off", "Outgoing webhooks are off: the operator has to set BACKSTOP_OUTGOING_KEYS."
                )
            )
        return self._registry.secrets

    async def _body(self, request: web.Request) -> bytes:
        body = bytes(await read_body(request, bytes_max=BODY_BYTES_MAX, within_s=self._limits.submit_body_s))
        if body:
            require_json(request)
        return body

    def _check_url(self, url: str) -> None:
        try:
            self._rules.check_url(url)
        except ValueError as error:
            wrong = FieldError("#/url", str(error))
            raise Refusal(Problem(422, "bad_request", "The body is not a valid request.", errors=(wrong,))) from None

    async def _known(self) -> Endpoints:
        assert self._registry is not None, "`_on` has checked it"
        try:
            await self._registry.endpoints.catch_up()
        except BrokerUnavailableError:
            raise self._log_away() from None
        return self._registry.endpoints

    async def _named(self, request: web.Request) -> Endpoint:
        tenant, endpoint_id = tenant_of(request), request.match_info["endpoint_id"]
        found = (await self._known()).book.find(endpoint_id, tenant)
        if found is None:
            raise Refusal(Problem(404, "endpoint_not_found", "There is no such webhook endpoint."))
        return found

    async def _found(self, request: web.Request) -> tuple[Endpoint, EndpointSaved]:
        found = await self._named(request)
        assert found.saved is not None, "`book.find` returns registered endpoints only"
        return found, found.saved

    async def _live(self, request: web.Request) -> tuple[Endpoint, EndpointSaved]:
        found, saved = await self._found(request)
        if not found.enabled:
            raise Refusal(Problem(409, "endpoint_disabled", "The endpoint is disabled; enable it first."))
        return found, saved

    def _again(self, saved: EndpointSaved, **changed: Any) -> EndpointSaved:
        at_ms = self._now_ms()
        return saved.model_copy(update={**changed, "id": f"{saved.endpoint_id}/{at_ms}", "at_ms": at_ms})

    def _switched(self, saved: EndpointSaved, *, enabled: bool) -> EndpointSwitched:
        at_ms = self._now_ms()
        return EndpointSwitched(
            id=f"{saved.endpoint_id}/switch/{at_ms}", at_ms=at_ms, endpoint_id=saved.endpoint_id, tenant=saved.tenant,
            enabled=enabled, reason="" if enabled else _BY_HAND,
        )  # fmt: skip

    async def _publish(self, *facts: Message) -> None:
        try:
            await self._publisher.publish(facts, timeout_s=self._limits.publish_s)
        except BrokerUnavailableError:
            raise self._log_away() from None

    def _log_away(self) -> Refusal:
        return unavailable(
            "log_unavailable",
            "The log did not acknowledge the change in time; it may still take effect. Read the endpoint, or send the "
            "change again.",
            self._limits.retry_after_s,
        )  # fmt: skip

    def _shown(self, endpoint: Endpoint, *, secret: bool = False) -> EndpointDocument:
        saved, secrets = endpoint.saved, self._on()
        assert saved is not None, "only registered endpoints are shown"
        known = secrets.secret(endpoint.id, saved.secrets[0]) is not None
        whole = secrets.shown(endpoint.id, saved.secrets[0]) if known else ""
        document: EndpointDocument = {
            "id": endpoint.id,
            "object": "webhook_endpoint",
            "created_at": saved.created_at_ms // 1000,
            "updated_at": saved.at_ms // 1000,
            "name": saved.name,
            "url": saved.url,
            "event_types": list(saved.event_types),
            "signing_secret_hint": f"whsec_…{whole[-4:]}" if known else "(its key is not in BACKSTOP_OUTGOING_KEYS)",
            "enabled": endpoint.enabled,
            "disabled_because": endpoint.disabled_because or None,
        }
        if secret:
            document["signing_secret"] = whole
        return document


_BY_HAND: Final = "disabled by hand"


def _ordered(event_types: tuple[EventType, ...]) -> tuple[EventType, ...]:
    return tuple(one for one in EVENT_TYPES if one in event_types)


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(document), content_type="application/json", headers=SECURITY_HEADERS
    )
