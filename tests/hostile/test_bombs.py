"""The unpacked size of a batch is bounded before it is unpacked.

Measured as the peak memory of a process that reads a bomb of each codec.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backstop.runtime.kafka.record_formats import COMPRESSED_RECORDS_MAX
from backstop.runtime.kafka.unpacking import TooLargeError, unpack
from backstop.runtime.record_sizes import UNPACKED_BYTES_MAX
from tests.hostile.batches import (
    CODECS,
    GZIP,
    LZ4,
    SNAPPY,
    ZSTD,
    Batch,
    Read,
    compress,
    message,
    record,
    sized,
    varint,
    zeros,
)

MB = 1 << 20
PACKED_BYTES_MAX = 1_500_000
"""About the largest bomb of each codec that a broker accepts."""
CHILD = """
import json, pathlib, resource, sys
from tests.hostile.batches import Read
peak_mb = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
data = pathlib.Path(sys.argv[1]).read_bytes()
before = peak_mb()
found = Read(data).records
rose_mb = peak_mb() - before
print()
told = [[each.offset, getattr(each.value, "reason", ""), getattr(each.value, "detail", "")] for each in found]
print(json.dumps([rose_mb, told]))
"""


def met_by_a_process(data: bytes, folder: Path) -> tuple[float, list[tuple[int, str, str]]]:
    """By how many MB the peak memory of the child rose, and the records that it read."""
    (folder / "fetched").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "fetched")], capture_output=True, text=True, timeout=60, check=True
    )
    rose_mb, found = json.loads(done.stdout.splitlines()[-1])
    return rose_mb, [tuple(each) for each in found]


@pytest.mark.parametrize(("codec", "size_mb"), [(GZIP, 1_000), (SNAPPY, 28), (LZ4, 300), (ZSTD, 2_000)])
def test_a_bomb_is_stepped_over_in_bounded_memory(codec: int, size_mb: int, tmp_path: Path) -> None:
    bomb = zeros(codec, size_mb)
    assert len(bomb) < PACKED_BYTES_MAX
    log = Batch(codec=codec, packed=bomb).bytes() + Batch(base=1).bytes()
    rose_mb, found = met_by_a_process(log, tmp_path)
    assert rose_mb < UNPACKED_BYTES_MAX / MB + 8
    assert [(offset, reason) for offset, reason, _ in found] == [(0, "too_large"), (1, "")]
    assert CODECS[codec] in found[0][2]


def test_millions_of_headers_are_not_decoded(tmp_path: Path) -> None:
    """A record of 24 MB, made of headers of two bytes: 1.2 GB of tuples."""
    count = 12_000_000
    body = b"\0\0\0" + sized(b"k") + sized(b"v") + varint(count) + b"\0\x01" * count
    bomb = Batch((varint(len(body)) + body,), codec=ZSTD).bytes()
    assert len(bomb) < PACKED_BYTES_MAX
    rose_mb, found = met_by_a_process(bomb, tmp_path)
    assert rose_mb < 2 * UNPACKED_BYTES_MAX / MB + 8
    assert [(offset, reason) for offset, reason, _ in found] == [(0, "unreadable")]
    assert f"{count} headers" in found[0][2]


def test_millions_of_tiny_records_are_one_dead_letter(tmp_path: Path) -> None:
    tiny = record(None, None)
    count = COMPRESSED_RECORDS_MAX + 1
    rose_mb, found = met_by_a_process(
        Batch((tiny * count,), codec=GZIP, count=count, delta=count - 1).bytes(), tmp_path
    )
    assert rose_mb < UNPACKED_BYTES_MAX / MB
    assert [(offset, reason) for offset, reason, _ in found] == [(count - 1, "too_large")]
    assert f"offsets 0 to {count - 1}" in found[0][2]


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD], ids=lambda codec: CODECS[codec])
def test_an_honest_large_batch_is_read(codec: int) -> None:
    """20 MB of one long prompt repeated, as clients send that share a preamble."""
    prompt = b"You are a careful assistant. " * 3_600
    records = tuple(record(prompt + b"%d" % n, b"job-%d" % n, offset=n) for n in range(200))
    found = Read(Batch(records, codec=codec).bytes()).records
    assert [each.value for each in found] == [prompt + b"%d" % n for n in range(200)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD], ids=lambda codec: CODECS[codec])
@pytest.mark.parametrize("size", [2, 4_096, 70_000, 3 * MB])
def test_the_bound_holds_to_the_byte(codec: int, size: int) -> None:
    packed = memoryview(compress(codec, bytes(range(256)) * (size // 256) + b"x" * (size % 256)))
    assert len(unpack(codec, packed, b"head", size)) == len(b"head") + size
    with pytest.raises(TooLargeError):
        unpack(codec, packed, b"", size - 1)


def test_many_empty_blocks_of_snappy_are_refused() -> None:
    header = b"\x82SNAPPY\0" + bytes([0, 0, 0, 1] * 2)
    with pytest.raises(TooLargeError, match="blocks"):
        unpack(SNAPPY, memoryview(header + bytes(4) * 350_000), b"", UNPACKED_BYTES_MAX)
    block = compress(SNAPPY, b"x" * 1_024)
    honest = header + (len(block).to_bytes(4, "big") + block) * 20_000
    assert len(unpack(SNAPPY, memoryview(honest), b"", UNPACKED_BYTES_MAX)) == 20_000 * 1_024


def test_message_sets_of_millions_of_messages_are_one_dead_letter() -> None:
    packed = compress(GZIP, message(None, None) * (COMPRESSED_RECORDS_MAX + 1))
    found = Read(message(packed, codec=GZIP), end=1).records
    assert [(each.offset, each.value.reason) for each in found] == [(0, "unreadable")]  # type: ignore[attr-defined]


def test_many_small_members_of_gzip_cost_no_more_than_their_bytes() -> None:
    members = compress(GZIP, b"") * 50_000
    assert len(unpack(GZIP, memoryview(members), b"", UNPACKED_BYTES_MAX)) == 0
