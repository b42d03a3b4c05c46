"""The handlers of `/v1/responses`. A create is a submission like any other: with `background: true` it is answered once
the log has acknowledged it, without it when the response has ended.

Reads come from the read model. A response that is not there yet is found in this process's memory of submissions, or,
if another process accepted it, awaited for `appear_s`: so a read directly after a create is not answered 404.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NoReturn

from aiohttp import web

from backstop.runtime.authority import authority_of
from backstop.runtime.errors import BlobStoreError
from backstop.runtime.http.routes import Asked, BadParameterError, query_of
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.sources import Sources
from receiver.access.identity import caller_of, tenant_of
from receiver.answers import keep, let_go
from receiver.bodies import NotJsonError, load_json, read_body, require_json
from receiver.ingress.cancels import Cancels
from receiver.ingress.jobs import ID_TAKEN, idempotency_key, refuse
from receiver.ingress.previous import FIELD
from receiver.ingress.submissions import NotTaken, Submissions
from receiver.ingress.submitted import SubmittedBodies
from receiver.limits import Limits
from receiver.lookups import ReadsAwayError
from receiver.partial_output.listeners import Listener
from receiver.problems import SECURITY_HEADERS, Problem, Refusal, reads_away
from receiver.responses_api.creates import refusal, to_submit, waits
from receiver.responses_api.ends import failure_of
from receiver.responses_api.errors import to_failed_response
from receiver.responses_api.items import PageOf
from receiver.responses_api.noting import BEGAN, retry_number
from receiver.responses_api.repeats import Repeats
from receiver.responses_api.responses import Responses, ShownResponse, unstored_marks
from receiver.responses_api.routes import ItemsQuery, RetrieveQuery
from receiver.responses_api.streaming import ResponseStreams
from receiver.responses_api.waiting import WaitingConnection, WaitingCreates, Who
from receiver.responses_api.wire import deleted_object, response_object, shown_bytes, text_of
from receiver.stored_objects import in_short
from schemas.job_ids import qualified_job_id
from schemas.long_texts import beginnings
from schemas.requests import Cancel
from streams.large_requests import BYTES_MAX
from streams.submission import Prepared, prepare

ID_BITS: Final = 192
"""`resp_` and 48 hexadecimal digits, as at the provider."""

CANCEL_POLL_S: Final = 0.05
REPEATED: Final = {"Backstop-Repeated": "true"}

_NEEDS_READ: Final = Problem(
    403,
    "scope_missing",
    "This key lacks the scope 'read', which an answer on this connection needs; send background: true instead.",
)

_NOT_KEPT: Final = "It does not exist, was deleted, or ended so long ago that it is no longer stored."
_HIDDEN_NOT_CANCELLED: Final = (
    "The response is deleted, but the log did not acknowledge its cancel, so it may still run. "
    "Send the DELETE again to cancel it."
)

_ID = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
"""The id of any job, also of one submitted at `/v1/jobs`."""

log = get_logger("receiver.responses_api")


def response_id_of(key: str, tenant: str) -> str:
    """The id derived from an `Idempotency-Key`. Never change its form: keys in use would name other responses."""
    return "resp_" + hashlib.sha256(f"responses\n{tenant}\n{key}".encode()).hexdigest()[: ID_BITS // 4]


@dataclass(slots=True)
class _Began:
    """A create in progress, without its body."""

    waits: bool
    unstored: bool
    obfuscated: bool
    who: Who = ("", "", "")
    sha256: str = ""
    """Of the submission."""
    response_id: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    rest: bytes = b""
    """Members that `document` lacks (`ShownResponse.rest`)."""
    headers: dict[str, str] = field(default_factory=dict)
    listener: Listener | None = None


@dataclass(frozen=True, slots=True)
class LaterAnswers:
    """Ways to answer a create other than at once. None where the process reads no changes."""

    streams: ResponseStreams | None
    waiting: WaitingCreates | None


class ResponsesIngress:
    def __init__(
        self, *, submissions: Submissions, responses: Responses, cancels: Cancels, bodies: SubmittedBodies,
        later: LaterAnswers, limits: Limits, sources: Sources,
    ) -> None:  # fmt: skip
        self._submissions = submissions
        self._responses = responses
        self._cancels = cancels
        self._memory = bodies.memory
        self._quotas = bodies.quotas
        self._previous = bodies.previous
        self._streams = later.streams
        self._waiting = later.waiting
        self._limits = limits
        self._now_ms = sources.now_ms
        self._random_hex = sources.random_hex
        self.repeats = Repeats(int(limits.repeat_window_s * 1000), limits.repeats_remembered_max)

    async def create(self, request: web.Request) -> web.StreamResponse:
        async with AsyncExitStack() as held:
            began = await self._begin(request, held)
            if began.listener is not None or began.waits:
                let_go()  # what the create read of a previous response, as it may wait for an hour
            if began.listener is not None:
                assert self._streams is not None
                return await self._streams.serve(
                    request, began.who[0], began.document, None, obfuscated=began.obfuscated, headers=began.headers,
                    listener=began.listener, unstored=began.unstored, sha256=began.sha256,
                )  # fmt: skip
            if began.waits:
                assert self._waiting is not None
                waiter = WaitingConnection(request, began.who, began.response_id)
                return await self._waiting.answer(
                    waiter, began.headers, partial(_finished, unstored=began.unstored, sha256=began.sha256)
                )
            return _json(began.document, began.headers, rest=began.rest)

    async def _begin(self, request: web.Request, held: AsyncExitStack) -> "_Began":
        """Read, check and submit the create. Its body is released before the wait for the answer."""
        limits, caller = self._limits, caller_of(request)
        require_json(request)
        key = idempotency_key(request)
        bytes_max = self._quotas.bytes_max(caller.tenant, limits.submit_bytes_max)
        with self._memory.share() as take:
            body = await read_body(request, bytes_max=bytes_max, within_s=limits.submit_body_s, take=take)
            apart = partial(self._memory.apart, len(body))
            parse = partial(_object_of, body, limits)
            del body
            asked = await apart(parse)
            del parse
            given_previous = beginnings(asked.get(FIELD))
            submit = await apart(partial(to_submit, asked, request.headers, may_stream=self._streams is not None))
            streams = bool(submit.request.get("stream"))
            began = _Began(waits(asked) and not streams, asked.get("store") is False, _is_obfuscated(asked))
            if (streams or began.waits) and "read" not in caller.scopes:
                raise Refusal(_NEEDS_READ)
            await apart(partial(self._previous.refuse_foreign, submit, caller.tenant))
            if given_previous is not None:
                request_body = {
                    **submit.request,
                    FIELD: await self._previous.to_provider(given_previous, caller.tenant),
                }
                submit = submit.model_copy(update={"request": request_body})
            prepared = await apart(partial(prepare, submit))
            is_large = len(prepared.data) > BYTES_MAX
            shown = await apart(partial(in_short, submit.request)) if is_large else submit.request
            began.sha256 = prepared.sha256
            began.who = (caller.tenant, caller.key_id, prepared.sha256 + ("/unstored" if began.unstored else ""))
            # Reserve the place before the log has the job: a refused create must not become a job.
            if began.waits and self._waiting is not None:
                held.enter_context(self._waiting.place(caller.tenant))
            began.response_id = self._id_for(key, began, request)
            if streams and self._streams is not None:
                began.listener = await held.enter_async_context(
                    self._streams.place(caller.tenant, began.response_id, authority_of(request))
                )
                keep(await apart(partial(shown_bytes, shown)))
            echoed = shown if given_previous is None else {**shown, FIELD: given_previous}
            await self._take(began, prepared, echoed, chosen=key is not None)
        return began

    async def _take(self, began: "_Began", prepared: Prepared, echoed: Mapping[str, Any], *, chosen: bool) -> None:
        """Submit the create and fill in `began`, whose response shows `echoed` of the request. Once the log has a new
        job, the create is not refused.
        """
        limits, tenant, response_id = self._limits, began.who[0], began.response_id
        # Keep the submission as a blob: reads show the request, which they find by the hash in the read model.
        verdict = await self._submissions.take(
            prepared, qualified_job_id(tenant, response_id), tenant, chosen=chosen, keep=True,
            marks=unstored_marks(tenant, response_id) if began.unstored else (),
        )  # fmt: skip
        if isinstance(verdict, NotTaken):
            refuse(verdict, limits.retry_after_s)
        if verdict.repeated:
            began.headers = REPEATED
            if await self._responses.is_hidden(tenant, response_id) and not (
                began.unstored and await self._responses.is_unstored(tenant, response_id)
            ):
                refuse(NotTaken("conflict"), limits.retry_after_s)  # deleted since; its Idempotency-Key stays used
        if began.unstored and (verdict.repeated or not verdict.marked):
            await self._unstore(tenant, response_id)
        if began.waits:
            return  # answered at its end, with what is read then: the wait holds nothing of the request
        if verdict.repeated:
            with suppress(ReadsAwayError, BlobStoreError, Refusal):
                shown = await self._responses.find(tenant, response_id, hidden_too=began.unstored)
                if shown is not None:
                    began.document, began.rest = shown.document, shown.rest
                    return
        created_at_ms = verdict.submitted_at_ms if verdict.submitted_at_ms is not None else self._now_ms()
        began.document = response_object(response_id, "queued", model=None, created_at_ms=created_at_ms, request=echoed)

    async def _unstore(self, tenant: str, response_id: str) -> None:
        try:
            await self._responses.hide_unstored(tenant, response_id)
        except OSError as error:
            # The log has the job, which an earlier create made: it is too late to refuse this one.
            log.error("not_unstored", job_id=response_id, error_type=type(error).__name__, errno=error.errno)

    def _id_for(self, key: str | None, began: "_Began", request: web.Request) -> str:
        tenant, key_id, sha256 = began.who
        if key is not None:
            return response_id_of(key, tenant)
        now_ms, number = self._now_ms(), retry_number(request)
        meant: str | None = None
        if began.waits and self._waiting is not None:
            meant = self._waiting.abandoned(began.who)
        if meant is None and number > 0:
            meant = self.repeats.original(tenant, key_id, sha256, number, now_ms, request.content_length)
        if meant is None:
            meant = f"resp_{self._random_hex(ID_BITS)}"
            self.repeats.began(tenant, key_id, sha256, meant, now_ms, number)
        request[BEGAN] = meant
        return meant

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        asked = _asked(request, RetrieveQuery)
        tenant = tenant_of(request)
        if asked.stream != "true" and asked.starting_after is None:
            shown = await self._find(tenant, _path_id(request))
            return _json(shown.document, rest=shown.rest)
        if self._streams is None:
            raise refusal("stream", "This process does not stream; poll without stream and starting_after.")
        shown = await self._find(tenant, _path_id(request))
        await self._streams.refuse_unstreamed(tenant, shown)
        obfuscated = asked.include_obfuscation == "true"
        return await self._streams.serve(request, tenant, shown.document, asked.starting_after, obfuscated=obfuscated)

    async def cancel(self, request: web.Request) -> web.Response:
        """Answers with the ended response, or after `cancelled_s` with its current state.

        A response of a create with `store: false` is cancelled while it is open, as a client that left its create has
        no other way to stop it. The answer tells its status only.
        """
        tenant, response_id = tenant_of(request), _path_id(request)
        await read_body(request, bytes_max=self._limits.cancel_bytes_max, within_s=self._limits.submit_body_s)
        shown = await self._find(tenant, response_id, hidden_too=True)
        hidden = await self._responses.is_hidden(tenant, response_id)
        if hidden and (shown.ended or not await self._responses.is_unstored(tenant, response_id)):
            _not_found(response_id)
        if not shown.ended:
            await self._cancels.publish(_cancel_of(response_id), tenant)
            shown = await self._ended_soon(tenant, response_id, shown)
        if hidden:
            return _json({**shown.document, "output": [], "store": False})
        return _json(shown.document, rest=shown.rest)

    async def _ended_soon(self, tenant: str, response_id: str, shown: ShownResponse) -> ShownResponse:
        """The response at its end, or as it is after `cancelled_s`."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limits.cancelled_s
        while not shown.ended and loop.time() < deadline_s:
            await asyncio.sleep(CANCEL_POLL_S)
            try:
                shown = await self._find(tenant, response_id, hidden_too=True)
            except Refusal:
                break  # the log has the cancel: answer with the last known state
        return shown

    async def delete(self, request: web.Request) -> web.Response:
        """Hide the response from reads, and cancel it if it is open, as no client could read its output.

        The tombstone is stored first; if that fails, nothing has changed. A repeat completes what is missing and gets
        the same answer.
        """
        tenant, response_id = tenant_of(request), _path_id(request)
        shown = await self._find(tenant, response_id, hidden_too=True)
        try:
            await self._responses.hide(tenant, response_id)
        except OSError:
            refuse(NotTaken("storage"), self._limits.retry_after_s)
        if not shown.ended:
            await self._cancels.publish(_cancel_of(response_id), tenant, _HIDDEN_NOT_CANCELLED)
        return _json(deleted_object(response_id))

    async def items(self, request: web.Request) -> web.Response:
        tenant, response_id = tenant_of(request), _path_id(request)
        wanted = _page_of(request)
        shown = await self._find(tenant, response_id)
        found = await self._responses.items(tenant, response_id, shown.request_sha256, wanted)
        if found == "input":
            raise Refusal(Problem(404, "input_missing", "The input of this response is no longer stored."))
        if found == "after":
            raise refusal("after", "after must be the id of an item of this response.")
        assert isinstance(found, bytes)
        return web.Response(body=found, content_type="application/json", headers=SECURITY_HEADERS)

    async def _find(self, tenant: str, response_id: str, *, hidden_too: bool = False) -> ShownResponse:
        """:raises Refusal: 404, there is no such response; 503, the read model is not reachable."""
        try:
            shown = await self._responses.find(tenant, response_id, hidden_too=hidden_too)
        except ReadsAwayError:
            raise reads_away(self._limits.retry_after_s, "Responses") from None
        if shown is None:
            _not_found(response_id)
        return shown


def _cancel_of(response_id: str) -> Cancel:
    return Cancel(type="cancel", job_id=response_id)


def _path_id(request: web.Request) -> str:
    text = request.match_info["response_id"]
    if not _ID.fullmatch(text):
        _not_found(text)
    return text


def _not_found(response_id: str) -> NoReturn:
    raise Refusal(Problem(404, "response_not_found", f"Response with id '{response_id[:120]}' not found. {_NOT_KEPT}"))


def _object_of(body: bytes | bytearray, limits: Limits) -> dict[str, Any]:
    try:
        value = load_json(body, limits.submit_depth_max, limits.submit_values_max)
    except NotJsonError as error:
        raise Refusal(Problem(400, "bad_json", f"The body is {error}.")) from None
    if not isinstance(value, dict):
        raise Refusal(Problem(422, "bad_request", "The body must be a JSON object."))
    return value


def _page_of(request: web.Request) -> PageOf:
    asked = _asked(request, ItemsQuery)
    return PageOf(asked.limit, asked.order, asked.after)


def _asked(request: web.Request, kind: type[Asked]) -> Asked:
    try:
        return query_of(request, kind)
    except BadParameterError as error:
        raise refusal(error.name, f"{error}.") from None


def _finished(shown: ShownResponse, *, unstored: bool, sha256: str) -> web.Response:
    """The answer to a waiting create. If the id belongs to another submission, only the conflict is told."""
    if shown.request_sha256 is not None and shown.request_sha256 != sha256:
        return to_failed_response(HTTPStatus.CONFLICT, "job_id_taken", ID_TAKEN)
    assert shown.outcome is not None
    failure = failure_of(shown.document, shown.outcome)
    if failure is not None:
        return to_failed_response(failure.status, failure.code, failure.message)
    return _json({**shown.document, "store": False} if unstored else shown.document, rest=shown.rest)


def _is_obfuscated(asked: dict[str, Any]) -> bool:
    options = asked.get("stream_options")
    return not isinstance(options, dict) or options.get("include_obfuscation") is not False


def _json(document: dict[str, Any], headers: dict[str, str] | None = None, *, rest: bytes = b"") -> web.Response:
    return web.Response(
        body=text_of(document, rest), content_type="application/json", headers={**SECURITY_HEADERS, **(headers or {})}
    )
