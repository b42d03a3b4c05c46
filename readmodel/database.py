"""What a database must be able to do for the read model: one protocol, two implementations, one conformance suite.

Work is a plain function of a `Connection`; it runs on a thread of the database's own, inside one transaction. The SQL in
`readmodel.store` is common to both: `?` for parameters, and only what SQLite and PostgreSQL read alike.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from runtime.errors import BackstopError

T = TypeVar("T")


class DatabaseAwayError(BackstopError):
    """Passing: the database can't be reached, or is busy beyond patience. Whether a commit took place is unknown."""


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
