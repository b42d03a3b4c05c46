"""The memory for large requests in a worker between the blob store and the provider, shared between tenants.

A request costs its bytes, the parsed value, and the bytes that are sent. A request without room is rejected and comes
again later, so that 64 photos at once wait for each other instead of exhausting the process's memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from backstop.runtime.shares import Shares
from schemas.base import BlobBody, Body

COST: Final = 3
"""Multiple of a request's bytes: its parsed texts, the encoded request, and the part that the connection has not sent
yet. Texts with characters of four bytes cost more, as in `receiver.limits.DEAR_COST`."""


class RequestMemory:
    def __init__(self, bytes_max: int) -> None:
        # Memory of a request in flight can't be reclaimed, so no tenant may take more than it leaves free.
        self._shares = Shares(bytes_max, greed=1)
        self._alone_bytes_max = bytes_max // 2

    @contextmanager
    def share(self, tenant: str, body: Body) -> Iterator[bool]:
        """Whether there is room for `body`; the room is kept until the context ends.

        A body larger than a tenant's whole share counts as the share.
        """
        if not isinstance(body, BlobBody):
            yield True
            return
        cost_bytes = min(COST * body.size_bytes, self._alone_bytes_max)
        granted = self._shares.ask_sparing((tenant,), cost_bytes)
        try:
            yield granted
        finally:
            if granted:
                self._shares.give_back((tenant,), cost_bytes)
