"""Follows the streams of running responses in the owned partitions, up to a number at one time.

The follower sees rows as they are written, and all rows after a recovery. The next owner of a partition reads each
stream from its beginning: readers drop events that they had before, by their numbers, and get those that they missed.

If the follower fails or is full, a job lacks only its partial output.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import structlog

from backstop.runtime.kafka.reporting import Reporting
from streams.fold import response
from streams.fold.rows import decode_response_state, decode_row
from streams.ports import Rows
from streams.workers.access import ProviderAccess
from streams.workers.limits import FollowLimits
from streams.workers.metrics import FollowerMetrics
from streams.workers.stream_reading import Followed, Following

log = structlog.get_logger()

STOP_BOOKS_S = 5.0
"""How long a stop waits until the broker has the usage of cancelled streams."""

MARK = b'"stream":true'
"""In each row of a response that can be followed, and rarely in others: a cheap test before decoding."""


class Follower:
    """Not thread-safe. `rebuilt` and `written` never wait."""

    def __init__(
        self,
        reporting: Reporting[FollowerMetrics],
        limits: FollowLimits,
    ) -> None:
        """:param reporting: with a publisher of its own: partial output must not hold up a fact."""
        self._reporting = reporting
        self._metrics = reporting.metrics
        self._limits = limits
        self._wanted: dict[str, Followed] = {}
        self._waiting: dict[str, None] = {}
        """In order of arrival; each is in `_wanted`."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._followings: dict[str, Following] = {}
        """Streams that have begun and whose response is not known to have ended."""
        self._cancelled: dict[str, Following] = {}
        """Streams of cancelled responses that are still read for their last events."""
        self._booking: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    def beside(self, rows: Rows) -> Rows:
        """`rows`, with the follower told of each write."""
        return _ToldRows(rows, self)

    def rebuilt(self, partitions: Iterable[int], rows: Rows) -> None:
        """Follow the responses of exactly these partitions, after a recovery."""
        found: dict[str, Followed] = {}
        for partition in partitions:
            for key, row in rows.items(partition):
                followed = _followed(partition, key, row)
                if followed is not None:
                    found[followed.response_id] = followed
        for response_id in self._wanted.keys() - found.keys():
            self._let_go(response_id, 0.0)
        for followed in found.values():
            self._want(followed)

    def written(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Take written rows. Never raises: a bug in the follower must not end the fold that wrote the rows."""
        try:
            for key, row in rows.items():
                followed = _followed(partition, key, row)
                if followed is not None:
                    self._want(followed)
                elif (response_id := key.decode()) in self._wanted:
                    self._over(response_id, row)
        except Exception as error:
            self._metrics.failed.inc()
            log.error("follower_failed", error_type=type(error).__name__)

    async def run(self, stop: asyncio.Event, access: ProviderAccess) -> None:
        """Follow until `stop` is set. The next owner of the partition goes on with what is followed then."""
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._changed.set())
        try:
            while not stop.is_set():
                while self._waiting and len(self._tasks) < self._limits.concurrency:
                    self._begin(next(iter(self._waiting)), access)
                self._metrics.waiting.set(len(self._waiting))
                await self._changed.wait()
                self._changed.clear()
        finally:
            stopping.cancel()
            await self._stop_all()

    async def _stop_all(self) -> None:
        """End all streams, and book what was seen of cancelled ones: the next owner follows running ones only."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # Each cancelled stream's end begins its booking.
        if self._booking:
            _, unbooked = await asyncio.wait(self._booking, timeout=STOP_BOOKS_S)
            for task in unbooked:
                task.cancel()
            await asyncio.gather(*unbooked, return_exceptions=True)

    def _want(self, followed: Followed) -> None:
        if followed.response_id not in self._wanted:
            self._wanted[followed.response_id] = followed
            self._waiting[followed.response_id] = None
            self._changed.set()

    def _over(self, response_id: str, row: bytes | None) -> None:
        """The response has ended. The usage of a cancelled one is booked when its stream is no longer read."""
        following = self._followings.get(response_id)
        if following is not None and _was_cancelled(row):
            if response_id in self._tasks:
                self._cancelled[response_id] = following
            else:
                self._book(following)
        self._let_go(response_id, self._limits.linger_s)

    def _book(self, following: Following) -> None:
        task = asyncio.get_running_loop().create_task(following.book(), name="book-usage")
        self._booking.add(task)
        task.add_done_callback(self._booking.discard)

    def _let_go(self, response_id: str, after_s: float) -> None:
        del self._wanted[response_id]
        self._followings.pop(response_id, None)
        self._waiting.pop(response_id, None)
        task = self._tasks.get(response_id)
        if task is not None:
            asyncio.get_running_loop().call_later(after_s, task.cancel)

    def _begin(self, response_id: str, access: ProviderAccess) -> None:
        del self._waiting[response_id]
        following = Following(self._wanted[response_id], access, self._reporting, self._limits)
        self._followings[response_id] = following
        task = asyncio.create_task(following.run(), name=f"follow-{response_id}")
        self._tasks[response_id] = task
        task.add_done_callback(lambda done: self._ended(response_id, done))

    def _ended(self, response_id: str, task: "asyncio.Task[None]") -> None:
        if self._tasks.get(response_id) is task:
            del self._tasks[response_id]
            cancelled = self._cancelled.pop(response_id, None)
            if cancelled is not None:
                self._book(cancelled)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._metrics.failed.inc()
            log.error("follower_failed", response_id=response_id, error_type=type(error).__name__)


class _ToldRows:
    def __init__(self, rows: Rows, follower: Follower) -> None:
        self._rows = rows
        self._follower = follower
        self.partitions = rows.partitions
        self.get = rows.get

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        return self._rows.items(partition)

    async def put(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        await self._rows.put(partition, rows)
        self._follower.written(partition, rows)


def _was_cancelled(row: bytes | None) -> bool:
    if row is None:
        return False
    state = decode_response_state(decode_row(row)[0])
    return isinstance(state, response.Ended) and state.status == "cancelled"


def _followed(partition: int, key: bytes, row: bytes | None) -> Followed | None:
    if row is None or MARK not in row:
        return None
    state = decode_response_state(decode_row(row)[0])
    if not isinstance(state, response.RunningResponse) or not state.claim.stream:
        return None
    claim = state.claim
    return Followed(key.decode(), claim.job_id, claim.attempt, claim.tenant, partition)
