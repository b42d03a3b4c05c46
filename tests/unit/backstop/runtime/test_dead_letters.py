"""Whatever a record is, its dead letter fits into a record too."""

from dataclasses import dataclass

import pytest

from backstop.audit.dead_letters import raw_record
from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from backstop.runtime.records import Record
from schemas.codec import PoisonError, decode, encode
from schemas.dead_letters import DEAD_LETTER

KEY_BYTES_MAX = 200
OVERHEAD_BYTES = 1_000
"""Headers of the letter, and what Kafka puts about a record."""


@dataclass(frozen=True)
class Huge:
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = (("h" * 1_000, b"v" * 10_000),) * 100
    topic: str = "requests"
    partition: int = 0
    offset: int = 1
    timestamp_ms: int = 5


@pytest.mark.parametrize("key", [b"k" * 1_000_000, b"\xff" * 1_000_000, "ä".encode() * 500_000])
def test_a_key_and_a_value_of_a_megabyte_and_all_headers_fit(key: bytes) -> None:
    letter = dead_letter(Huge(key, b"x" * 1_000_000), PoisonError("not_json", "d" * 10_000), "intake", 7)
    assert len(letter.key.encode()) <= KEY_BYTES_MAX
    assert len(encode(letter)) + KEY_BYTES_MAX + OVERHEAD_BYTES < RECORD_BYTES_MAX


def test_a_header_without_a_value_keeps_having_none() -> None:
    record = Record("requests", 0, 1, 5, None, b"?", (("a", None), ("b", b""), ("c", b"x")))
    letter = dead_letter(record, PoisonError("not_json", "d"), "intake", 7)
    assert letter.headers == (("a", None), ("b", ""), ("c", "eA=="))
    assert decode(DEAD_LETTER, encode(letter)) == letter
    assert raw_record(letter).headers == record.headers
