"""What a bucket of any provider is asked: the requests, and their errors by the party that must act."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from pydantic import SecretStr

CONNECT_S: Final = 3.0
REQUEST_S: Final = 60.0
"""Per try, body included: 64 MiB at 10 Mbit/s take 54 s."""
TRIES_AGAIN_MAX: Final = 2
RETRY_S: Final = 10.0
"""After this time no further try begins."""
BACKOFF_S: Final = 0.1
"""Before the second try; twice as long before each further one, up to `BACKOFF_S_MAX`."""
BACKOFF_S_MAX: Final = 2.0
ANSWER_S: Final = 15.0
"""All tries together, and a second more for each of `BYTES_PER_S` that are sent or read: 10 Mbit/s."""
BYTES_PER_S: Final = 1_250_000

Trouble = Literal["clock", "region", "denied", "no_bucket", "throttled", "unreachable", "failed"]


class BucketRequestError(Exception):
    """A request that was refused, or whose outcome is unknown. `str` is what the store or the network said: for the
    log, without a credential.
    """

    def __init__(self, trouble: Trouble, told: str, *, passing: bool = False) -> None:
        super().__init__(told)
        self.trouble: Final = trouble
        self.passing: Final = passing
        """Whether the same request may succeed a moment later."""


class Patience(NamedTuple):
    """How often a request is repeated, and how long its answer is waited for, without the time of its bytes."""

    tries_again_max: int = TRIES_AGAIN_MAX
    answer_s: float = ANSWER_S


USUAL: Final = Patience()


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """Where a bucket is, and the credential for it, as the settings name them."""

    name: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    key_id: str | None = None
    secret_key: SecretStr | None = None


class ObjectVersion(NamedTuple):
    """What is under a key."""

    put_ms: float
    generation: str | None = None
    """Of this version, where the provider removes on that condition."""


class BucketRequests(Protocol):
    """The requests to one bucket, below its prefix. Each repeats itself as `Patience` says, and has no limit of time
    over all: its caller has one. All raise `BucketRequestError`.
    """

    async def put(self, key: str, data: bytes | memoryview, *, create: bool) -> bool:
        """Write the whole data, or nothing. With `create`, False if the key exists already."""

    async def get(self, key: str, announced: Callable[[int], None]) -> memoryview:
        """The whole content. `announced` is told its size before a byte of it is read, and raises if it is too large.

        :raises FileNotFoundError: the store itself says that the key does not exist.
        """

    async def version(self, key: str) -> ObjectVersion:
        """:raises FileNotFoundError: as `get`."""

    async def delete(self, key: str, version: ObjectVersion) -> bool:
        """Remove this version. False if the provider knows that it was put again; S3 and Azure then remove that.

        :raises FileNotFoundError: as `get`.
        """

    async def close(self) -> None: ...
