"""The read model's database: one protocol, two implementations, one conformance suite.

Work is a plain function of a `Connection`. It runs on a thread of the database, inside one transaction. The SQL in
`backstop.readmodel.store` serves both databases: `?` for parameters, and only syntax that SQLite and PostgreSQL share.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from backstop.runtime.authority import NOBODYS, owner_now
from backstop.runtime.errors import BackstopError
from backstop.runtime.turns import ResourceTurns, TooManyWaitingError

T = TypeVar("T")


class DatabaseAwayError(BackstopError):
    """Passing: the database is unreachable or busy for too long. Whether a commit took place is unknown."""


READ_WITHIN_MS = 5_000
"""Time limit of one statement of a request. The process's own work (digests, sweeps, rebuilds) may take longer."""
REQUESTS_WAITING_MAX = 256
"""Waiting reads per tenant."""


class RequestReads:
    """Fair turns by tenant for reads of requests; the process's own reads take no turn."""

    def __init__(self, readers: int) -> None:
        self._turns = ResourceTurns(readers, REQUESTS_WAITING_MAX)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[int | None]:
        """Wait for a turn. Yields the time limit of a statement in milliseconds; None: no limit.

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
    """Another projection has claimed this partition, or is ahead in it: roll back, and claim the partitions again."""


class Connection(Protocol):
    """One connection in one transaction; used on one thread."""

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, or of a statement with RETURNING."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; returns the number of rows changed."""

    def execute_many(self, sql: str, params: Sequence[Sequence[Any]]) -> None:
        """Run a statement once per element of `params`."""

    def take_long(self) -> None:
        """Let the statements of this transaction take as long as they need."""


Work = Callable[[Connection], T]


class Database(Protocol):
    """A read model's database. All methods may be called concurrently from one event loop."""

    @property
    def build(self) -> int:
        """The build last read: Unix milliseconds of its creation, so no number occurs twice."""

    async def open(self) -> None:
        """Prepare the database: create it if it is missing, check its schema.

        :raises DatabaseAwayError: unreachable now.
        :raises ConfigurationError: the schema is another release's; rebuild.
        """

    async def close(self) -> None:
        """Close all connections and threads. Idempotent."""

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction, exclusive among the writers of all processes; roll back on an exception.

        :raises DatabaseAwayError: see there.
        """

    async def read(self, work: Work[T]) -> T:
        """Run `work` on one consistent snapshot.

        :raises DatabaseAwayError: see there.
        """

    async def changed(self, after_seq: int, timeout_s: float) -> None:
        """Return at the first change after `after_seq`, by any process, or after `timeout_s`."""

    def for_rebuild(self) -> "Database":
        """Another build beside the current one, for a rebuild: not
        opened yet, and invisible to readers until promoted.
        """

    async def discard(self) -> None:
        """Close and remove everything, the remains of a killed rebuild included. For a build from `for_rebuild`."""

    async def promote(self, rebuilt: "Database") -> None:
        """Close `rebuilt` and make it the current build, atomically. The replaced build is kept, older ones removed.

        :raises DatabaseAwayError: see there. Promoted or not, the read model is whole.
        """
