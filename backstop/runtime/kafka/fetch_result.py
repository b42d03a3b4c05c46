"""What a consumer gets at once of one partition's fetch: a bounded number of records, and a bounded number of bytes.

The bytes count unpacked. A fetch of 1 MiB may hold a thousand compressed batches of 1 KB that unpack to 25 MB each.
Each is within the limit of a batch, and all of them at once are 25 GB.
"""

from typing import Any

from aiokafka.consumer import fetcher

from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from backstop.runtime.records import HEADER_BYTES

RECORDS_AT_ONCE_MAX = 5_000
"""Per partition. The smallest record takes 7 bytes in a batch and 300 in memory."""
BYTES_AT_ONCE_MAX = 2 * 1024 * 1024
"""Per partition, of records, or of unpacked batches, whichever comes first; the last record may exceed it."""

assert BYTES_AT_ONCE_MAX > RECORD_BYTES_MAX, "else each large record would be a batch of its own"


class FetchResult(fetcher.FetchResult):  # type: ignore[misc]  # aiokafka has no types
    """Replaces aiokafka's class of this name. What is over the limits stays packed, and the partition is not fetched
    meanwhile.
    """

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        """At most `max_records` records. An empty list means that the partition was lost, or that nothing is left."""
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        records = self._partition_records
        count_max = min(max_records or RECORDS_AT_ONCE_MAX, RECORDS_AT_ONCE_MAX)
        found: list[Any] = []
        left, unpacked_max = BYTES_AT_ONCE_MAX, 0
        for record in records:
            # The batch of the first record does not count: it may be a large one, taken in several turns.
            unpacked_max = unpacked_max or records.unpacked_bytes + BYTES_AT_ONCE_MAX
            found.append(record)
            left -= record.serialized_key_size + record.serialized_value_size + HEADER_BYTES * len(record.headers)
            if left <= 0 or len(found) >= count_max or records.unpacked_bytes > unpacked_max:
                records.pack_up()
                break
        else:
            self._partition_records = None
        self._assignment.state_value(self._topic_partition).consumed_to(records.next_fetch_offset)
        return found
