"""A photo in a body: it is taken where the operator allows it, and costs no more memory than three times its size."""

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from backstop.runtime.blobs import FolderBlobs
from backstop.runtime.process.garbage import return_large_blocks
from receiver.limits import DEAR_COST, Limits
from tests.hostile.pauses import least_pause_s
from tests.unit.receiver.ingress import Ingress, with_ingress

BODY_BYTES = 20_000_000
MEMORY_BYTES_MAX = 64 << 20
CLIENT_BYTES_MAX = 8 << 20
"""Buffers of the client, which lives in the same process here."""

PAUSE_S_MAX = 0.150
"""Beyond the 50 ms of other bodies: one scan, parse or copy of 20 MB is not divisible."""

ITEMS_PAUSE_S_MAX = 0.050

HEADS = {
    "/v1/jobs": (b'{"request":{"model":"m","input":"', b'"}}'),
    "/v1/responses": (b'{"model":"m","background":true,"input":"', b'"}'),
}

JSON = {"Content-Type": "application/json"}


def resident_bytes(name: str) -> int:
    """Memory that is there, as the kernel counts it: what is only reserved costs nothing."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


CONTENTS = {
    "a photo": b"iVBORw0KGg" * 5_000,
    "a text with escapes": b'Said, "no": \\n'.replace(b'"', b'\\"') * 2_500,
    "a text of four-byte characters": "Grüße 😀, ".encode() * 3_571,
}


async def chunks(path: str, content: bytes = CONTENTS["a photo"]) -> AsyncIterator[bytes]:
    head, tail = HEADS[path]
    yield head
    for _ in range(BODY_BYTES // len(content)):
        yield content
    yield tail


@pytest.mark.parametrize(
    ("path", "content", "cost_bytes_max"),
    [
        ("/v1/jobs", "a photo", MEMORY_BYTES_MAX),
        ("/v1/responses", "a photo", MEMORY_BYTES_MAX),
        ("/v1/responses", "a text with escapes", MEMORY_BYTES_MAX),
        ("/v1/responses", "a text of four-byte characters", DEAR_COST * BODY_BYTES),
    ],
)
def test_a_body_of_twenty_megabytes_costs_little_memory_and_no_long_pause(
    tmp_path: Path, path: str, content: str, cost_bytes_max: int
) -> None:
    return_large_blocks()
    sent = CONTENTS[content]

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("POST", path, data=b"".join(HEADS[path]), headers=JSON))[0] in {200, 202}
        before_bytes = resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        status, document, _ = await ingress.call("POST", path, data=chunks(path, sent), headers=JSON)
        cost_bytes = resident_bytes("VmHWM") - before_bytes
        print(f"{path}, {content}: {cost_bytes / 2**20:.1f} MiB")
        assert status in {200, 202}, document
        assert len(str(ingress.publisher.landed)) < 10_000, "the log has a reference"
        assert cost_bytes <= cost_bytes_max + CLIENT_BYTES_MAX

        async def again() -> None:
            await ingress.call("POST", path, data=chunks(path, sent), headers=JSON)

        assert await least_pause_s(PAUSE_S_MAX, again) <= PAUSE_S_MAX

    with_ingress(
        story, blobs=FolderBlobs(tmp_path / "blobs"), submit_bytes_max=32 << 20, limits=Limits(submit_body_s=60)
    )


@pytest.mark.parametrize("items", [[5_000_000] * 3, [0] * 5_900], ids=["few large ones", "many small ones"])
def test_the_items_of_a_large_input_are_listed_without_a_long_pause(items: list[int], tmp_path: Path) -> None:
    asked = {"model": "m", "background": True, "input": [{"role": "user", "content": "x" * size} for size in items]}

    async def story(ingress: Ingress) -> None:
        sent = io.BytesIO(orjson.dumps(asked))
        _, made, _ = await ingress.call("POST", "/v1/responses", data=sent, headers=JSON)
        path = f"/v1/responses/{made['id']}/input_items?limit=2"

        async def listed(query: str) -> Any:
            status, document, _ = await ingress.call("GET", f"{path}{query}")
            assert status == 200, document
            return document

        first = await listed("&order=asc")
        assert [len(item["content"][0]["text"]) for item in first["data"]] == items[:2]
        rest = await listed(f"&order=asc&after={first['last_id']}")
        assert (len(rest["data"]), rest["has_more"]) == (min(2, len(items) - 2), len(items) > 4)
        assert (await listed(""))["data"][0]["id"] not in {item["id"] for item in first["data"]}
        assert (await ingress.call("GET", f"{path}&after=none"))[0] == 400

        async def again() -> None:
            assert (await listed(f"&after={first['first_id']}"))["data"] == []

        assert await least_pause_s(ITEMS_PAUSE_S_MAX, again) <= ITEMS_PAUSE_S_MAX

    with_ingress(story, blobs=FolderBlobs(tmp_path), submit_bytes_max=32 << 20, limits=Limits(submit_body_s=60))


def test_what_is_larger_than_allowed_hears_the_limit_and_the_way_out() -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", "/v1/jobs", data=chunks("/v1/jobs"), headers=JSON)
        assert (status, document["code"]) == (413, "body_too_large")
        assert "1048576 bytes" in document["detail"]
        assert "file_url" in document["detail"]

    with_ingress(story)
