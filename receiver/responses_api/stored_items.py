"""Pages of the input of a stored submission. One of tens of megabytes is read apart, in a process of its own:
`python -m receiver.responses_api.stored_items IN OUT RESPONSE_ID LIMIT ORDER AFTER`.
"""

import sys
from typing import Final, cast

from backstop.runtime.blobs import BlobStore
from backstop.runtime.errors import BlobMissingError, BlobStoreError
from backstop.runtime.process.apart import Apart
from backstop.runtime.process.apart_files import left, taken
from receiver.responses_api.items import Missing, Order, PageOf, page_of
from streams.large_requests import BYTES_MAX

MODULE: Final = "receiver.responses_api.stored_items"

_MISSING: Final[dict[int, Missing]] = {3: "input", 4: "after"}
"""By exit code."""


class InputItems:
    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._apart = Apart(MODULE)

    async def page(self, response_id: str, sha256: str, wanted: PageOf) -> bytes | Missing:
        """A page of the input of the stored submission, as JSON.

        :raises BlobStoreError: it can't be read now.
        """
        try:
            data = await self._blobs.get(sha256)
        except BlobMissingError:
            return "input"
        if len(data) <= BYTES_MAX:
            return page_of(data, response_id, wanted)
        arguments = (response_id, str(wanted.limit), wanted.order, wanted.after or "")
        try:
            done = await self._apart.run([bytes(data)], *arguments)
        except OSError as error:  # no memory for a process
            raise BlobStoreError(f"a large input can't be read now: {error}") from error
        if done.code in _MISSING:
            return _MISSING[done.code]
        if done.code:
            raise BlobStoreError(f"the reader of a large input ended with exit code {done.code}")
        return done.text


def main(given: int, written: int, response_id: str, wanted: PageOf) -> int:
    found = page_of(taken(given), response_id, wanted)
    if isinstance(found, str):
        return next(code for code, missing in _MISSING.items() if missing == found)
    left(written, b"", (found,))
    return 0


if __name__ == "__main__":
    given_file, written_file, of, limit, in_order, after = sys.argv[1:]
    sys.exit(main(int(given_file), int(written_file), of, PageOf(int(limit), cast("Order", in_order), after or None)))
