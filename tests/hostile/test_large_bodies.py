"""A photo in a body: it is taken where the operator allows it, and costs no more memory than three times its size."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.blobs import FolderBlobs
from runtime.heap import return_large_blocks
from tests.hostile.pauses import least_pause_s
from tests.unit.receiver.door import Door, with_door

BODY_BYTES = 20_000_000
MEMORY_BYTES_MAX = 64 << 20
CLIENT_BYTES_MAX = 8 << 20
"""Buffers of the client, which lives in the same process here."""

PAUSE_S_MAX = 0.150
"""Beyond the 50 ms of other bodies: one scan, parse or copy of 20 MB is not divisible."""

HEADS = {
    "/v1/jobs": (b'{"request":{"model":"m","input":"', b'"}}'),
    "/v1/responses": (b'{"model":"m","background":true,"input":"', b'"}'),
}

JSON = {"Content-Type": "application/json"}


def resident_bytes(name: str) -> int:
    """Memory that is there, as the kernel counts it: what is only reserved costs nothing."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


async def chunks(path: str) -> AsyncIterator[bytes]:
    head, tail = HEADS[path]
    yield head
    for _ in range(BODY_BYTES // 50_000):
        yield b"iVBORw0KGg" * 5_000
    yield tail


@pytest.mark.parametrize("path", HEADS)
def test_a_body_of_twenty_megabytes_costs_little_memory_and_no_long_pause(tmp_path: Path, path: str) -> None:
    return_large_blocks()

    async def story(door: Door) -> None:
        assert (await door.call("POST", path, data=b"".join(HEADS[path]), headers=JSON))[0] in {200, 202}
        before_bytes = resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        status, document, _ = await door.call("POST", path, data=chunks(path), headers=JSON)
        cost_bytes = resident_bytes("VmHWM") - before_bytes
        assert status in {200, 202}, document
        assert len(str(door.publisher.landed)) < 10_000, "the log has a reference"
        assert cost_bytes <= MEMORY_BYTES_MAX + CLIENT_BYTES_MAX

        async def again() -> None:
            await door.call("POST", path, data=chunks(path), headers=JSON)

        assert await least_pause_s(PAUSE_S_MAX, again) <= PAUSE_S_MAX

    with_door(story, blobs=FolderBlobs(tmp_path / "blobs"), submit_bytes_max=32 << 20)


def test_what_is_larger_than_allowed_hears_the_limit_and_the_way_out() -> None:
    async def story(door: Door) -> None:
        status, document, _ = await door.call("POST", "/v1/jobs", data=chunks("/v1/jobs"), headers=JSON)
        assert (status, document["code"]) == (413, "body_too_large")
        assert "1048576 bytes" in document["detail"]
        assert "file_url" in document["detail"]

    with_door(story)
