"""The handlers of `/v1/lanes`: how lanes stand, and pauses by operators. See `receiver.reads.lane_routes`.

A pause is a fact on `pauses`, with who and why. A key without `admin` sees and pauses creates of its own tenant only.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import web

from backstop.readmodel.database import Database, DatabaseAwayError
from backstop.readmodel.lane_load import any_job, lane_load
from backstop.runtime.authority import key_id_now
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.http.routes import declare
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger
from receiver.access.priorities import AllowsPriority, any_priority
from receiver.bodies import read_model
from receiver.lane_watch import LaneWatch
from receiver.limits import Limits
from receiver.problems import Problem, Refusal, unavailable
from receiver.reads import problems
from receiver.reads.lane_routes import LIST_LANES, PAUSE, RESUME, LanesView, LaneView, PauseBody, PauseView, ResumeBody
from receiver.reads.overview import Rights
from receiver.reads.parameters import guarded
from schemas.lanes import ALL_MODELS, lane_name
from schemas.pauses import CreatesPaused, CreatesResumed, PauseFact, PauseScope
from streams.policy.lanes import Lane
from streams.policy.pauses import PAUSES_MAX

log = get_logger("receiver.lanes")

BODY_BYTES_MAX: Final = 16 << 10
TENANT_PAUSES_MAX: Final = 20
"""Pauses in force that keys without `admin` may set for their tenant: each costs time with each job of all tenants."""

NO_SCOPE: Final = "A pause of other tenants' creates needs the scope 'admin'."


@dataclass(frozen=True, slots=True)
class Publishing:
    """What facts are written with."""

    publisher: Publisher
    limits: Limits
    allows_priority: AllowsPriority = any_priority


def add_lane_routes(
    app: web.Application, database: Database, rights: Rights, now_ms: NowMs, watch: LaneWatch, publishing: Publishing
) -> None:  # fmt: skip
    """Add `/v1/lanes` to `app`."""
    lanes = _Lanes(database, rights, now_ms, watch, publishing)
    for route, handler in ((LIST_LANES, lanes.list_all), (PAUSE, lanes.pause), (RESUME, lanes.resume)):
        declare(app, route, guarded(handler))


class _Lanes:
    def __init__(
        self, database: Database, rights: Rights, now_ms: NowMs, watch: LaneWatch, publishing: Publishing
    ) -> None:  # fmt: skip
        self._database = database
        self._rights = rights
        self._now_ms = now_ms
        self._watch = watch
        self._publisher = publishing.publisher
        self._limits = publishing.limits
        self._turn = asyncio.Lock()
        """Each change starts from the state after the one before."""

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        tenant, admin = self._rights.tenant_of(request), self._is_admin(request)
        await self._known()
        load = await self._database.read(lambda conn: lane_load(conn, tenant))
        found = self._watch.lanes if admin else {
            place: lane for place, lane in self._watch.lanes.items() if place[1] in (ALL_MODELS, *load.by_model)
        }  # fmt: skip
        quiet = load.by_model.keys() - {model for _, model in found}
        views = [self._lane("", model, Lane(), tenant) for model in quiet]
        views += [self._lane(account, model, lane, tenant) for (account, model), lane in found.items()]
        for model, view in zip((*quiet, *(model for _, model in found)), views, strict=True):
            if model in load.by_model:
                view["open_jobs"] = cast("dict[str, int]", load.by_model[model])
        mine = [one for one in self._watch.book.active.values() if admin or one.scope.tenant in (None, tenant)]
        answer: LanesView = {
            "object": "lanes", "at_ms": self._now_ms(), "truncated": load.truncated,
            "data": sorted(views, key=lambda view: (view["model"], view.get("account", ""))),
            "pauses": [_shown(pause) for pause in sorted(mine, key=lambda pause: (pause.at_ms, pause.key))],
        }  # fmt: skip
        return problems.answer(answer)

    async def pause(self, request: web.Request) -> web.StreamResponse:
        asked = await read_model(PauseBody, request, self._limits, bytes_max=BODY_BYTES_MAX)
        scope = self._scope(request, asked.scope)
        by = asked.by or _key_name()
        async with self._turn:
            await self._known()
            active = self._watch.book.active
            found = active.get(scope.pause_id)
            if found is not None:
                if (found.by, found.why) == (by, asked.why):
                    return problems.answer(_shown(found))  # A repeat.
                raise Refusal(
                    Problem(409, "already_paused", f"{_start(scope.words)} are {found.words}. Resume them first.")
                )
            self._check_room(scope, admin=self._is_admin(request))
            if not asked.unseen and not await self._was_seen(scope):
                raise Refusal(
                    Problem(
                        409, "nothing_to_pause",
                        f"No stored job fits: {scope.words}. Check the names, or send unseen: true to pause such "
                        "creates before there are any.",
                    )
                )  # fmt: skip
            at_ms = self._now_ms()
            fact = CreatesPaused(
                id=f"{scope.pause_id}/{at_ms}/paused", at_ms=at_ms, scope=scope, by=by, asked_by=key_id_now(),
                why=asked.why,
            )  # fmt: skip
            await self._write(fact)
        return problems.answer(_shown(fact))

    async def resume(self, request: web.Request) -> web.StreamResponse:
        asked = await read_model(ResumeBody, request, self._limits, bytes_max=BODY_BYTES_MAX)
        pause_id = asked.pause_id or self._scope(request, asked.scope).pause_id
        async with self._turn:
            await self._known()
            found = self._watch.book.active.get(pause_id)
            tenant, admin = self._rights.tenant_of(request), self._is_admin(request)
            if found is None or not (admin or found.scope.tenant in (None, tenant)):
                raise Refusal(Problem(404, "pause_not_found", "There is no such pause in force; see GET /v1/lanes."))
            if not admin and found.scope.tenant is None:
                raise Refusal(Problem(403, "scope_missing", NO_SCOPE))
            at_ms = self._now_ms()
            fact = CreatesResumed(
                id=f"{pause_id}/{at_ms}/resumed", at_ms=at_ms, scope=found.scope, by=asked.by or _key_name(),
                asked_by=key_id_now(), why=asked.why, paused_at_ms=found.at_ms,
            )  # fmt: skip
            await self._write(fact)
        return problems.answer(_shown(found) | {"resumed_by": fact.by})

    def _is_admin(self, request: web.Request) -> bool:
        return "admin" in self._rights.scopes_of(request)

    def _scope(self, request: web.Request, asked: PauseScope) -> PauseScope:
        """The scope as this caller may set it.

        :raises Refusal: 403, it names another tenant.
        """
        tenant = self._rights.tenant_of(request)
        if self._is_admin(request):
            return asked
        if asked.tenant not in (None, tenant):
            raise Refusal(Problem(403, "scope_missing", NO_SCOPE))
        return asked.model_copy(update={"tenant": tenant})

    def _check_room(self, scope: PauseScope, *, admin: bool) -> None:
        active = self._watch.book.active.values()
        of_tenant = sum(one.scope.tenant == scope.tenant for one in active)
        if len(active) >= PAUSES_MAX or (not admin and of_tenant >= TENANT_PAUSES_MAX):
            most = PAUSES_MAX if len(active) >= PAUSES_MAX else TENANT_PAUSES_MAX
            raise Refusal(
                Problem(
                    409, "too_many_pauses", f"{most} pauses are in force, the limit. Resume one, or pause more broadly."
                )
            )

    async def _was_seen(self, scope: PauseScope) -> bool:
        lanes = self._watch.lanes
        if scope.account is not None and not any(account == scope.account for account, _ in lanes):
            return False
        if (
            scope.tenant is None
            and scope.tag is None
            and (scope.model is None or any(m == scope.model for _, m in lanes))
        ):
            return True
        try:
            return await self._database.read(
                lambda conn: any_job(conn, model=scope.model, tenant=scope.tenant, tag=scope.tag)
            )
        except DatabaseAwayError:
            return True  # A pause must be possible while the read model is away.

    async def _known(self) -> None:
        try:
            await self._watch.first_read()
        except BrokerUnavailableError as error:
            raise self._away(f"Pauses can't be read now: {error}.") from None

    async def _write(self, fact: PauseFact) -> None:
        """Return when the log has the fact, and it is read back."""
        self._watch.expect(fact.id)
        try:
            await self._publisher.publish([fact], timeout_s=self._limits.publish_s)
            await self._watch.read_back(fact.id)
        except BrokerUnavailableError:
            raise self._away(
                "The log did not acknowledge the change in time; it may still take effect. See GET /v1/lanes."
            ) from None
        finally:
            self._watch.forget(fact.id)
        log.info(
            fact.type, pause_id=fact.key, by=fact.by, key_id=fact.asked_by, why=fact.why, scope=fact.scope.words
        )  # fmt: skip

    def _away(self, detail: str) -> Refusal:
        return unavailable("log_unavailable", detail, self._limits.retry_after_s)

    def _lane(self, account: str, model: str, lane: Lane, tenant: str) -> LaneView:
        view: LaneView = {"object": "lane", "model": lane_name(model), "state": "open"}
        if account:
            view["account"] = account
        closed = lane.closed
        if closed is not None:
            because = f"{closed.why.code}: {closed.why.message}".removesuffix(": ")
            view |= {
                "state": closed.breaks, "since_ms": closed.since_ms, "because": because,
                "next_probe_at_ms": closed.due_ms(), "probes": closed.probes,
            }  # fmt: skip
        paused = self._watch.book.holding(model=model, tenant=tenant, tags=(), account=account or None)
        for pause in paused:
            view |= {"state": "paused", "since_ms": pause.at_ms, "because": pause.words}
            view.pop("next_probe_at_ms", None)
            break
        return view


def _shown(pause: CreatesPaused) -> PauseView:
    view: dict[str, Any] = {
        "object": "pause", "id": pause.key, **pause.scope.model_dump(exclude_none=True), "since_ms": pause.at_ms,
        "by": pause.by, "why": pause.why,
    }  # fmt: skip
    return cast("PauseView", view)


def _key_name() -> str:
    key_id = key_id_now()
    return "a developer" if key_id is None else f"key {key_id}"


def _start(words: str) -> str:
    return words[:1].upper() + words[1:]
