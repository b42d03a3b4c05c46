"""Builds the receiver's HTTP application, and runs it in a server."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry

from backstop.outgoing.endpoints import Endpoints
from backstop.outgoing.secrets import SecretKeys
from backstop.runtime.addresses import parse_networks
from backstop.runtime.blob_folders import BlobFolders
from backstop.runtime.blobs import BlobStore, Bodies
from backstop.runtime.claims import Claims, FolderClaims
from backstop.runtime.errors import BlobStoreError
from backstop.runtime.http.health import Health, add_routes
from backstop.runtime.http.routes import declare
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.chance import RandomHex
from backstop.runtime.process.clock import NowMs, monotonic_s
from backstop.runtime.process.descriptors import allow_files, files_probe
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.sources import Sources
from backstop.runtime.shares import Shares
from receiver.access.access_log import AddressOf, tell_access, tell_change
from receiver.access.addresses import client_address
from receiver.access.callers import CALLER, TICKET, CallerIngress
from receiver.access.identity import RATE, authentication
from receiver.access.keys import KeyRing
from receiver.access.priorities import limited_by
from receiver.access.quotas import Quotas, knows_no_load
from receiver.access.tickets import Tickets
from receiver.answers import CountedBlobs, ReadMemory, sending
from receiver.bodies import BodyMemory
from receiver.connections import Gate
from receiver.failures import log_failure
from receiver.health import WatchedPublisher
from receiver.ingress.adoptions import ADOPT, AdoptIngress
from receiver.ingress.cancels import Cancels
from receiver.ingress.endpoint_routes import CHANGE, LIST, REGISTER, REMOVE, RESEND, ROTATE, SHOW, TEST
from receiver.ingress.endpoints import EndpointIngress, EndpointRegistry
from receiver.ingress.jobs import CANCEL, SUBMIT, JobIngress
from receiver.ingress.previous import PreviousResponses
from receiver.ingress.submissions import FindJob, KnownIds, SubmissionRules, Submissions, knows_nothing
from receiver.ingress.submitted import SubmittedBodies
from receiver.ingress.webhooks import RECEIVE, WebhookIngress, WebhookRules
from receiver.limits import Limits
from receiver.lookups import JobReads
from receiver.metrics import ReceiverMetrics
from receiver.openapi import add_document
from receiver.partial_output.jobs import STREAM, JobStreamIngress
from receiver.partial_output.listeners import Changes, Live
from receiver.problems import SERVER_FAILED, Problem, Refusal, from_http_exception, storage_unavailable, to_response
from receiver.responses_api import routes as sdk
from receiver.responses_api.errors import speaks_openai, to_openai_response
from receiver.responses_api.handlers import LaterAnswers, ResponsesIngress
from receiver.responses_api.models import add_models
from receiver.responses_api.noting import noting
from receiver.responses_api.responses import Responses
from receiver.responses_api.streaming import ResponseStreams
from receiver.responses_api.waiting import WaitingCreates
from receiver.settings import ReceiverSettings, check_relations

SAVE_LAST_USED_S = 60.0
REQUEST_ID_BITS = 128
OWN_SECRET_BITS = 256

log = get_logger("receiver.app")

HEALTH: web.AppKey[Health] = web.AppKey("health", Health)
SUBMISSIONS: web.AppKey[Submissions] = web.AppKey("submissions", Submissions)
PREVIOUS: web.AppKey[PreviousResponses] = web.AppKey("previous", PreviousResponses)
RESPONSES: web.AppKey[Responses] = web.AppKey("responses", Responses)
LIVE: web.AppKey[Live] = web.AppKey("live", Live)
BLOBS: web.AppKey[CountedBlobs] = web.AppKey("blobs", CountedBlobs)
"""For routes that read bodies: their memory counts."""
KEYS: web.AppKey[KeyRing] = web.AppKey("keys", KeyRing)
METRICS: web.AppKey[ReceiverMetrics] = web.AppKey("metrics", ReceiverMetrics)


def build_app(
    settings: ReceiverSettings,
    publisher: Publisher,
    blobs: BlobStore,
    now_ms: NowMs,
    random_hex: RandomHex,
    reads: JobReads | None = None,
    *,
    find_job: FindJob | None = None,
    endpoints: Endpoints | None = None,
    limits: Limits | None = None,
    registry: CollectorRegistry | None = None,
    health: Health | None = None,
    changes: Changes | None = None,
    claims: Claims | None = None,
    folders: BlobFolders | None = None,
) -> web.Application:
    """The application with ingress, health and metrics. Callers may add routes until it runs; their refusals become
    problem documents too.

    - `reads`: the read model, where the process has one; `find_job`, if given, replaces its method of that name.
    - `endpoints`: of outgoing webhooks, which are off without it or without signing keys.
    - `registry`: metrics of this application; a new registry if not given.
    - `health`: stored as `app[HEALTH]`; new if not given.
    - `changes`: of the read model. With it and `reads` partial output is streamed: the reader of the topic hands each
      record to `app[LIVE]`.
    - `claims`: in the folder that the settings name, if not given.
    - `folders`: tells whether all processes use the same blob folder.

    :raises ConfigurationError: an unusable webhook secret, contradicting settings, or no API keys where one is needed.
    """
    check_relations(settings)
    keys = settings.webhook_keys()
    limits = replace(limits or Limits(), **settings.limits_set())
    registry = registry or CollectorRegistry()
    health = health or Health("receiver")
    metrics = ReceiverMetrics(registry)
    sources = Sources(now_ms, random_hex)
    watched = WatchedPublisher(publisher, monotonic_s)
    health.watch("log", watched.complaint)
    health.watch("files", files_probe())
    answers = ReadMemory(limits.answers_memory_bytes_max, limits.retry_after_s)
    blobs = counted = CountedBlobs(blobs, answers)

    webhooks = WebhookIngress(
        WebhookRules(
            keys, settings.webhook_tolerance_s, settings.claim_grace_ms, settings.unclaimed_forget_after_ms
        ),
        limits, watched, now_ms, metrics,
    )  # fmt: skip
    ring = KeyRing(settings.keys_path, settings.host, now_ms, registry, development=settings.development)
    quotas = Quotas(ring.limits_of, reads.load if reads else knows_no_load, now_ms, registry)
    submissions = Submissions(
        reporting=Reporting(watched, metrics, now_ms),
        bodies=Bodies(blobs, settings.inline_bytes_max),
        ids=KnownIds(
            claims or FolderClaims(settings.claims_path),
            folders.shared if folders is not None else lambda: True,
            find_job or (reads.find_job if reads else knows_nothing),
        ),
        policy=settings.submission,
        limits=limits,
        quotas=quotas,
        stamps=SubmissionRules(settings.limit_rules(), settings.prices()),
        allows_priority=limited_by(ring.priorities_of),
    )

    async def is_hidden(tenant: str, response_id: str) -> bool:
        return await shown.is_hidden(tenant, response_id)

    previous = PreviousResponses(reads, blobs, settings.submission, is_hidden, submissions.accepted, limits.appear_s)
    bodies = SubmittedBodies(BodyMemory(limits.bodies_memory_bytes_max, limits.retry_after_s), quotas, previous)
    cancels = Cancels(watched, now_ms, limits)
    jobs = JobIngress(submissions, cancels, bodies, random_hex, limits)
    shown = Responses(reads, submissions, previous, blobs, limits)
    live = Live(changes, limits, registry) if reads is not None and changes is not None else None
    waiting = None if changes is None else WaitingCreates(changes, shown, limits, registry)
    responses = ResponsesIngress(
        submissions=submissions, responses=shown, cancels=cancels, bodies=bodies,
        later=LaterAnswers(None if live is None else ResponseStreams(live, shown, limits, now_ms), waiting),
        limits=limits, sources=sources,
    )  # fmt: skip

    outgoing = EndpointIngress(
        registry=EndpointRegistry(endpoints, SecretKeys(settings.outgoing_keys))
        if endpoints is not None and settings.outgoing_keys else None,
        rules=settings.egress_rules(), reads=reads, publisher=watched, limits=limits,
        endpoints_max=settings.outgoing_endpoints_max, sources=sources,
    )  # fmt: skip

    tickets = Tickets(
        settings.ticket_keys() or (random_hex(OWN_SECRET_BITS).encode(),), ring, now_ms, random_hex, registry
    )
    address_of = _addresses(settings)
    callers = CallerIngress(tickets, limits)
    app = web.Application(
        middlewares=[
            _measure(metrics, address_of, access_log=settings.access_log), _answer_with_problems,
            noting(responses.repeats, sdk.CREATE.path, now_ms),
            authentication(ring, quotas, tickets, Shares(limits.keyed_requests_max), address_of),
            sending(answers, limits),
        ]
    )  # fmt: skip
    app.on_response_prepare.append(_name(random_hex))
    app.cleanup_ctx.append(_saving_last_used(ring))
    app[SUBMISSIONS], app[RESPONSES], app[BLOBS], app[PREVIOUS] = submissions, shown, counted, previous
    app[HEALTH], app[KEYS], app[METRICS] = health, ring, metrics
    declare(app, RECEIVE, webhooks.receive, expect_handler=_expect)
    adopt = AdoptIngress(submissions, reads, settings.submission, limits).adopt
    for command, take in ((SUBMIT, jobs.submit), (CANCEL, jobs.cancel), (ADOPT, adopt)):
        declare(app, command, take, expect_handler=_expect)
    _declare_responses(app, responses)
    add_models(app, settings.models)
    declare(app, TICKET, callers.ticket, expect_handler=_expect)
    declare(app, CALLER, callers.caller)
    if live is not None and reads is not None:
        outputs = JobStreamIngress(
            live=live, reads=reads, submissions=submissions, is_hidden=shown.is_hidden, limits=limits, now_ms=now_ms
        )
        declare(app, STREAM, outputs.stream)
        app[LIVE] = live
    app.on_shutdown.append(_letting_go(live, waiting))
    for route, handler in (
        (REGISTER, outgoing.register), (LIST, outgoing.list_all), (SHOW, outgoing.show), (CHANGE, outgoing.change),
        (REMOVE, outgoing.remove), (ROTATE, outgoing.rotate), (TEST, outgoing.test), (RESEND, outgoing.resend),
    ):  # fmt: skip
        declare(app, route, handler, expect_handler=_expect)
    add_document(app)
    add_routes(app, health, registry, metrics=settings.metrics_public)
    return app


def _declare_responses(app: web.Application, responses: ResponsesIngress) -> None:
    declare(app, sdk.CREATE, responses.create, expect_handler=_expect)
    declare(app, sdk.CANCEL, responses.cancel, expect_handler=_expect)
    declare(app, sdk.RETRIEVE, responses.retrieve)
    declare(app, sdk.DELETE, responses.delete)
    declare(app, sdk.INPUT_ITEMS, responses.items)


async def serve(
    app: web.Application, host: str, port: int, limits: Limits, stop: asyncio.Event, port_file: Path | None = None
) -> None:
    """Run `app` until `stop` is set, then finish open requests within `limits.stop_s`.

    The bound port is written to `port_file` once connections are accepted.

    :raises OSError: the address can't be bound.
    """
    allowed = allow_files(limits.connections_max + limits.files_other)
    if allowed < limits.connections_max + limits.files_other:
        # Keep descriptors free, so that a connection above the limit can still be answered 503.
        limits = replace(limits, connections_max=max(allowed - limits.files_other, allowed // 2))
        log.warning("few_open_files", allowed=allowed, connections_max=limits.connections_max)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=limits.stop_s / 3)
    await runner.setup()
    try:
        assert runner.server is not None
        gate = Gate(runner.server, limits, app.get(METRICS))
        listener = await asyncio.get_running_loop().create_server(gate, host, port, backlog=limits.backlog_max)
        bound_port = listener.sockets[0].getsockname()[1]
        log.info("listening", host=host, port=bound_port)
        if port_file is not None:
            _write_at_once(port_file, str(bound_port))
        try:
            await stop.wait()
        finally:
            listener.close()
            gate.close()
    finally:
        try:
            async with asyncio.timeout(limits.stop_s):
                await runner.cleanup()
        except TimeoutError:
            log.warning("stopped_with_requests_open", duration_s=limits.stop_s)


def _addresses(settings: ReceiverSettings) -> AddressOf:
    proxies = parse_networks(settings.trusted_proxies)

    def address_of(request: web.Request) -> str:
        if not proxies:  # the common case, on every request: skip parsing
            return request.remote or ""
        return client_address(request.remote, request.headers.getall("X-Forwarded-For", ()), proxies)

    return address_of


def _measure(metrics: ReceiverMetrics, address_of: AddressOf, *, access_log: bool) -> Middleware:
    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        began_s = monotonic_s()
        status = 500
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "unmatched"
            duration_s = monotonic_s() - began_s
            metrics.request(request.method, route, status, duration_s)
            tell_change(request, status, address_of)
            if access_log:
                tell_access(request, route, status, duration_s, address_of)

    return measure


@web.middleware
async def _answer_with_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    def answer(problem: Problem) -> web.Response:
        if speaks_openai(request.path, request.headers):
            return to_openai_response(problem, request.method, request.path)
        return to_response(problem)

    try:
        response = await handler(request)
    except Refusal as refusal:
        response = answer(refusal.problem)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = answer(from_http_exception(error))
    except BlobStoreError as error:
        log.warning("blob_store_trouble", method=request.method, reason=str(error))
        response = answer(storage_unavailable().problem)
    except Exception as error:
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            log.debug("client_left", method=request.method)  # A browser that leaves in the middle is no failure.
        else:
            log_failure(error, method=request.method)
        response = answer(Problem(500, "internal", SERVER_FAILED))
    if not request.content.is_eof():
        # Answered before the whole body was read: the rest of it must not be parsed as another request.
        response.force_close()
    return response


def _name(random_hex: RandomHex) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def name(request: web.Request, response: web.StreamResponse) -> None:
        response.headers[hdrs.SERVER] = "backstop"  # replaces aiohttp's, which names versions
        rate = request.get(RATE)
        if rate is not None:
            response.headers.update(rate.headers())
        if speaks_openai(request.path, request.headers):
            response.headers["x-request-id"] = f"req_{random_hex(REQUEST_ID_BITS)}"

    return name


def _saving_last_used(ring: KeyRing) -> Callable[[web.Application], AsyncIterator[None]]:
    async def run() -> None:
        while True:
            await asyncio.sleep(SAVE_LAST_USED_S)
            await asyncio.to_thread(ring.save_last_used)
            ring.warn_of_ends()

    async def saving(_app: web.Application) -> AsyncIterator[None]:
        ring.warn_of_ends()
        task = asyncio.create_task(run(), name="save-last-used")
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(ring.save_last_used)

    return saving


def beside(app: web.Application, name: str, run: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run `run` in a task from the start of `app` to its cleanup."""

    async def running(_app: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(run(), name=name)
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    app.cleanup_ctx.append(running)


def _letting_go(*held: Live | WaitingCreates | None) -> Callable[[web.Application], Awaitable[None]]:
    async def let_go(_app: web.Application) -> None:
        for each in held:
            if each is not None:
                each.stop()  # before the server waits for its handlers: a stream does not end by itself

    return let_go


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect: 100-continue` with 100, any other expectation with 417."""
    if request.version < HttpVersion11:
        return None  # such a client knows no interim answers (RFC 9110, 10.1.1)
    if request.headers["Expect"].lower() != "100-continue":
        return to_response(Problem(417, "expectation_failed", "The only supported value of Expect is 100-continue."))
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # As aiohttp's own handler does: the interim response does not count as part of the answer.
    request.writer.output_size = 0
    return None


def _write_at_once(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)
