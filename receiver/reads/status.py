"""The status of the whole system: processes, partitions, lag and lanes, by what the broker knows of them anyway."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge

from backstop.readmodel.rows import JobRow, Wait
from backstop.readmodel.waits import Sight, idle_wait, time_of
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.http.routes import declare
from backstop.runtime.kafka.groups import GroupReader
from backstop.runtime.kafka.holdings import GROUPS, OF_TENANTS, Holding, Holdings, Snapshot, reads
from backstop.runtime.kafka.troubles import Troubles
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.identity import ProcessName, name_from, own_name
from backstop.runtime.process.logs import get_logger
from backstop.runtime.settings import RuntimeSettings
from receiver.reads import problems
from receiver.reads.status_routes import (
    GET_STATUS,
    ClosedLaneView,
    PartitionView,
    ProcessView,
    StatusView,
)
from receiver.reads.system_text import (
    blocked_sentences,
    missing_sentences,
    near_sentences,
    place_of,
    still_sentences,
    trouble_sentences,
    unassigned_sentences,
)
from schemas.lanes import lane_name
from streams.policy import lanes

SNAPSHOT_EVERY_S: Final = 3.0
"""While what was found is read, or something is wrong. One snapshot costs as much processor time as 20 requests."""
QUIET_SNAPSHOT_EVERY_S: Final = 15.0
FRESH_WITHIN_S: Final = 1.0
"""`/v1/status` waits for so long for a snapshot, where the last one is old."""
STILL_MS_TOLD: Final = 30_000
"""A reader that does not move for this long although records wait is told."""
OF_JOBS: Final = ("jobs", "submissions", "results")
OF_RESPONSES: Final = ("responses", "polls")
"""Topics with the job's id, and with its response's, as key: equal keys have equal partitions."""
RATE_MS: Final = 60_000

log = get_logger("receiver.status")


class Reader(Protocol):
    async def snapshot(self) -> Snapshot: ...
    async def close(self) -> None: ...


class SystemMetrics:
    """What the brokers tell, for alerts. Each `serve` shows the same: take the maximum over them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        place = ("group", "topic", "partition")
        self.answers = Gauge(
            "backstop_broker_answers", "1 if the brokers answered the last question.", registry=registry
        )
        self._lag = Gauge(
            "backstop_partition_lag_records", "Records of a partition that its group has not read.", place,
            registry=registry,
        )  # fmt: skip
        self._still = Gauge(
            "backstop_partition_still_seconds",
            "For how long records wait while the reader of their partition does not move; 0 if it moves.", place,
            registry=registry,
        )  # fmt: skip
        self._unassigned = Gauge(
            "backstop_partition_unassigned", "1 for a partition that is assigned to no member of its group.", place,
            registry=registry,
        )  # fmt: skip
        self.in_trouble = Gauge(
            "backstop_processes_in_trouble",
            "Processes whose probes complain, of a full disk for one, or that end again and again.", registry=registry,
        )  # fmt: skip
        self._open_transaction = Gauge(
            "backstop_partition_open_transaction_seconds",
            "For how long an open transaction has blocked records of a partition; 0 for none.",
            place, registry=registry,
        )  # fmt: skip

    def show(self, held: Holdings, now_ms: int) -> None:
        self.answers.set(1)
        for each in held.held.values():
            place = (each.group, each.topic, str(each.partition))
            self._lag.labels(*place).set(each.lag)
            self._still.labels(*place).set(each.still_ms(now_ms) / 1000)
            self._unassigned.labels(*place).set(each.holder is None)
            self._open_transaction.labels(*place).set(each.blocked_ms(now_ms) / 1000)


class SystemWatch:
    """Asks the broker for its groups. Needed by `/v1/status`, for alerts, and for jobs that wait for a worker."""

    def __init__(self, reader: Reader, now_ms: NowMs, registry: CollectorRegistry | None = None) -> None:
        """`registry`: of the metrics; a new one if not given."""
        self._reader = reader
        self._metrics = SystemMetrics(registry or CollectorRegistry())
        self._now_ms = now_ms
        self._holdings = Holdings()
        self._wanted = asyncio.Event()
        """The holdings were read since the last snapshot."""
        self._asked = asyncio.Event()
        """Set at the next snapshot, and replaced."""
        self.lanes: Mapping[tuple[str, str], lanes.Lane] = {}
        """By account and model, as another part follows them."""
        self.troubles = Troubles(now_ms)
        """What processes complain of, as another part hears it."""
        self._polled: deque[tuple[int, int]] = deque()
        """Time and number of all finished poll commands, of the last minute."""

    @property
    def holdings(self) -> Holdings:
        """What the snapshots so far told. A read of it makes the next one come soon."""
        self._wanted.set()
        return self._holdings

    async def fresh(self) -> None:
        """Wait until the holdings are no older than `SNAPSHOT_EVERY_S`, for `FRESH_WITHIN_S` at most."""
        if self._holdings.away is not None or self._now_ms() - self._holdings.at_ms < SNAPSHOT_EVERY_S * 1000:
            return
        asked = self._asked
        self._wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(FRESH_WITHIN_S):
                await asked.wait()

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            while True:
                self._wanted.clear()
                await self.once()
                await asyncio.sleep(SNAPSHOT_EVERY_S)
                if not self._something_wrong():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(QUIET_SNAPSHOT_EVERY_S - SNAPSHOT_EVERY_S):
                            await self._wanted.wait()
        finally:
            await self._reader.close()

    def _something_wrong(self) -> bool:
        held = self._holdings
        return bool(
            held.away is not None
            or held.missing
            or held.moving_since_ms
            or any(map(self._is_wrong, held.held.values()))
        )

    def _is_wrong(self, each: Holding) -> bool:
        """Whether a partition has no reader, or nothing has moved since the last snapshot."""
        at_ms = self._holdings.at_ms
        return each.holder is None or each.still_ms(at_ms) > 0 or each.blocked_ms(at_ms) > 0

    async def once(self) -> None:
        try:
            await self._ask()
        finally:
            asked, self._asked = self._asked, asyncio.Event()
            asked.set()

    async def _ask(self) -> None:
        self._metrics.in_trouble.set(self.troubles.count())
        try:
            snapshot = await self._reader.snapshot()
        except BrokerUnavailableError as error:
            if self._holdings.away is None:
                log.warning("broker_does_not_answer", reason=str(error))
            self._holdings = self._holdings.missed(str(error), self._now_ms())
            self._metrics.answers.set(0)
            return
        before = {holding.partition: holding for holding in self._holdings.unassigned()}
        self._holdings = self._holdings.saw(snapshot)
        for each in self._holdings.unassigned():
            if each.partition not in before:
                log.warning("partition_without_reader", group=each.group, topic=each.topic, partition=each.partition)
        self._count_polls(snapshot)
        self._metrics.show(self._holdings, snapshot.at_ms)

    def _count_polls(self, snapshot: Snapshot) -> None:
        done = sum(offset for group in snapshot.groups if group.name == "poller" for offset in group.committed.values())
        self._polled.append((snapshot.at_ms, done))
        while self._polled[0][0] < snapshot.at_ms - RATE_MS:
            self._polled.popleft()

    def idle(self, row: JobRow, sight: Sight) -> Wait | None:
        """The partition of an open job's log, or else of its response's, that no worker holds."""
        if row.wait is None or row.position.topic != "jobs":
            return None
        found = self.holdings.idle(("jobs", row.position.partition))
        if found is None and sight.partition is not None:
            found = self.holdings.idle(("responses", sight.partition))
        return None if found is None else idle_wait(found.topic, found.partition, found.unassigned_since_ms or 0)

    def holds_up(self, row: JobRow, sight: Sight) -> list[str]:
        """What of the system holds up this job, or makes what is told of it old: a sentence each."""
        held, now_ms = self.holdings, self._now_ms()
        if held.away is not None:
            return wrong(self, now_ms)
        numbers = dict.fromkeys(OF_JOBS, row.position.partition if row.position.topic == "jobs" else None)
        numbers |= dict.fromkeys(OF_RESPONSES, sight.partition)
        unassigned = [each for each in held.unassigned() if numbers.get(each.topic) == each.partition]
        frozen = [each for each in still(held, now_ms) if numbers.get(each.topic) == each.partition]
        return unassigned_sentences(unassigned) + still_sentences(frozen)

    def polls_per_s(self) -> float:
        if len(self._polled) < 2:
            return 0.0
        (from_ms, first), (to_ms, last) = self._polled[0], self._polled[-1]
        return round(max(0, last - first) * 1000 / max(1, to_ms - from_ms), 2)


def system_watch(settings: RuntimeSettings, now_ms: NowMs, registry: CollectorRegistry | None = None) -> SystemWatch:
    topics = sorted({topic for group in GROUPS.values() for topic in group})
    topics += [f"{OF_TENANTS}{tenant}" for tenant in settings.request_tenants]
    return SystemWatch(GroupReader(settings, tuple(GROUPS), topics, now_ms), now_ms, registry)


def add_status_route(app: web.Application, watch: SystemWatch, now_ms: NowMs) -> None:
    """Add `GET /v1/status` to `app`."""

    async def get_status(_request: web.Request) -> web.StreamResponse:
        await watch.fresh()
        return problems.answer(status(watch, now_ms()))

    declare(app, GET_STATUS, get_status)


def status(watch: SystemWatch, now_ms: int) -> StatusView:
    """The answer, from what the watch has seen."""
    held = watch.holdings
    behind = [each for each in held.held.values() if each.group == "readmodel"]
    view: StatusView = {
        "object": "status",
        "at_ms": now_ms,
        "seen_at_ms": held.at_ms,
        "wrong": wrong(watch, now_ms),
        "broker": {"answers": held.away is None and held.at_ms > 0, "brokers": held.brokers},
        "readmodel": {
            "lag": sum(each.lag for each in behind),
            "delay_ms": max((each.still_ms(now_ms) for each in behind), default=0),
        },
        "polls_per_s": watch.polls_per_s(),
        "processes": _processes(held, watch.troubles.lives.running(now_ms)),
        "partitions": [_partition(held.held[key]) for key in sorted(held.held)],
        "lanes": _closed(watch.lanes),
    }
    if held.away is not None:
        view["broker"] |= {"since_ms": held.away_since_ms or now_ms, "because": held.away}
    return view


def wrong(watch: SystemWatch, now_ms: int) -> list[str]:
    """What holds jobs up, a sentence each."""
    held = watch.holdings
    if held.away is not None:
        return [f"{held.away[:300]}, since {time_of(held.away_since_ms or now_ms)}"]
    told = missing_sentences(held.missing)
    told += unassigned_sentences(held.unassigned())
    told += still_sentences(still(held, now_ms))
    told += near_sentences(near_end_of_retention(held))
    told += blocked_sentences(blocked(held, now_ms))
    told += trouble_sentences(watch.troubles)
    return told + [
        f"creates of {lane['model']} wait since {time_of(lane['since_ms'])}: {lane['code']} {lane['message']}".rstrip()
        for lane in _closed(watch.lanes)
    ]


def still(held: Holdings, now_ms: int) -> list[Holding]:
    """Partitions with a reader that has not moved for `STILL_MS_TOLD`, although records wait."""
    if held.away is not None:
        return []
    found = (each for each in held.held.values() if each.holder is not None)
    return sorted((each for each in found if each.still_ms(now_ms) >= STILL_MS_TOLD), key=_order)


def near_end_of_retention(held: Holdings) -> list[Holding]:
    """Partitions of which retention may soon delete records that are not read yet."""
    return sorted((each for each in held.held.values() if each.near_end_of_retention), key=_order)


def blocked(held: Holdings, now_ms: int) -> list[Holding]:
    """Partitions that can't be read on, as a transaction in them has been open for `STILL_MS_TOLD`."""
    if held.away is not None:
        return []
    return sorted((each for each in held.held.values() if each.blocked_ms(now_ms) >= STILL_MS_TOLD), key=_order)


def _order(each: Holding) -> tuple[str, str, int]:
    return each.group, each.topic, each.partition


def _processes(held: Holdings, running: Iterable[ProcessName]) -> list[ProcessView]:
    """`running`: what was heard of otherwise; some processes are in no group."""
    me = own_name("serve")
    found: dict[str, ProcessView] = {me.place: _process(me.place, me, "serve")}
    for group in held.groups:
        for member in group.members:
            name = name_from(member.client_id)
            place = place_of(member.client_id)
            view = found.setdefault(place, _process(place, name))
            view["address"] = member.host
            view["parts"] = sorted({*view["parts"], group.name})
            mine = {f"{topic}/{number}" for topic, number in member.partitions if reads(group.name, topic)}
            view["partitions"] = sorted({*view["partitions"], *mine})
    for name in running:
        found.setdefault(name.place, _process(name.place, name, name.component))
    return [found[place] for place in sorted(found)]


def _process(place: str, name: ProcessName | None, *parts: str) -> ProcessView:
    view: ProcessView = {"name": place, "parts": list(parts), "partitions": []}
    return view if name is None else {**view, "version": name.version}


def _partition(each: Holding) -> PartitionView:
    view: PartitionView = {
        "group": each.group, "topic": each.topic, "partition": each.partition, "lag": each.lag,
        "moved_at_ms": each.moved_at_ms,
    }  # fmt: skip
    if each.holder is not None:
        view["holder"] = place_of(each.holder)
    if each.unassigned_since_ms is not None:
        view["unassigned_since_ms"] = each.unassigned_since_ms
    return view


def _closed(board: Mapping[tuple[str, str], lanes.Lane]) -> list[ClosedLaneView]:
    found: list[ClosedLaneView] = []
    for key in sorted(board):
        account, model = key
        closed = board[key].closed
        if closed is not None:
            found.append(
                {
                    "model": lane_name(model), "account": account, "since_ms": closed.since_ms,
                    "probe_at_ms": closed.probe_at_ms,
                    "cause": closed.why.cause, "code": closed.why.code, "message": closed.why.message,
                }
            )  # fmt: skip
    return found
