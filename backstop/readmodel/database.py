"""What a database must be able to do for the read model: one protocol, two implementations, one conformance suite.

Work is a plain function of a `Connection`; it runs on a thread of the database's own, inside one transaction. The SQL in
`backstop.readmodel.store` is common to both: `?` for parameters, and only what SQLite and PostgreSQL read alike.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from backstop.runtime.authority import NOBODYS, owner_now
from backstop.runtime.errors import BackstopError
from backstop.runtime.turns import TooManyWaitingError, Turns

T = TypeVar("T")


class DatabaseAwayError(BackstopError):
    """Passing: the database can't be reached, or is busy beyond patience. Whether a commit took place is unknown."""


READ_WITHIN_MS = 5_000
"""What one statement of a request may take. Our own work (digests, sweeps, rebuilds) may take longer."""
REQUESTS_WAITING_MAX = 256
"""Reads of one tenant that wait for their turn."""


class RequestReads:
    """Reads that requests ask for take turns by tenant; what the process itself reads waits for nobody."""

    def __init__(self, readers: int) -> None:
        self._turns = Turns(readers, REQUESTS_WAITING_MAX)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[int | None]:
        """How long a statement may take in it, in milliseconds; None is any time.

        :raises DatabaseAwayError: too many reads of this tenant wait.
        """
        owner = owner_now()
        if owner == NOBODYS.owner:
            yield None
            return
        try:
            async with self._turns.turn(owner):
                yield READ_WITHIN_MS
        except TooManyWaitingError as error:
            raise DatabaseAwayError(f"too many reads of one tenant at one time: {error}") from error


class FencedError(BackstopError):
    """Another projection owns this partition now, or has gone further: roll back, and take up what is ours afresh."""


class Connection(Protocol):
    """One connection in one transaction; used on one thread."""

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query (or of a statement with RETURNING)."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; how many rows it changed."""

    def execute_many(self, sql: str, params: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for each of `params`."""


Work = Callable[[Connection], T]


class Database(Protocol):
    """A read model's database. All methods are safe from one event loop with any concurrency."""

    @property
    def build(self) -> int:
        """The number of the build that was read last: unix milliseconds of its creation, so that no number comes twice."""

    async def open(self) -> None:
        """Make it ready: made where it is missing, refused where its schema is another release's.

        :raises DatabaseAwayError: not reachable now.
        :raises ConfigurationError: there is another schema; rebuild.
        """

    async def close(self) -> None:
        """End all connections and threads; idempotent."""

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction, with no other writer beside it in any process; commit, or roll back on an exception.

        :raises DatabaseAwayError: see there.
        """

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one consistent snapshot.

        :raises DatabaseAwayError: see there.
        """

    async def changed(self, after_seq: int, timeout_s: float) -> None:
        """Return once there is a change after `after_seq`, whoever wrote it, or after `timeout_s`."""

    def aside(self) -> "Database":
        """Another build beside the current one, for a rebuild: not opened yet, and seen by nobody until it is promoted."""

    async def discard(self) -> None:
        """Close, and remove all that there is. For a build that is aside; what a rebuild left that was killed, too."""

    async def promote(self, aside: "Database") -> None:
        """Make `aside`, which is closed by this, the current build, at once. The one it replaces is kept, older ones are not.

        :raises DatabaseAwayError: see there; promoted or not, the read model is whole.
        """
