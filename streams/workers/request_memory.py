"""The memory that large requests take in a worker between the blob store and the provider, shared by tenant.

A request costs its bytes, the value that they become, and the bytes that are sent. What finds no room is given back and comes again, so that
64 photos at one time wait for each other instead of ending the process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from backstop.runtime.shares import Shares
from schemas.base import BlobBody, Body

COST: Final = 3
"""Times its bytes: its texts, what is written of them for the provider, and what of that the connection has not taken yet. Of texts with
characters of four bytes it is more, as it is in `receiver.limits.DEAR_COST`."""


class RequestMemory:
    def __init__(self, bytes_max: int) -> None:
        # What is being sent can't be taken back, so no tenant may take more than it leaves free.
        self._shares = Shares(bytes_max, greed=1)
        self._alone_bytes_max = bytes_max // 2

    @contextmanager
    def share(self, tenant: str, body: Body) -> Iterator[bool]:
        """Whether there is room for `body`, which is kept until the end. One that is larger than all a tenant may have counts as that much."""
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
