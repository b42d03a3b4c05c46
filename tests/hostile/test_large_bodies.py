"""A photo in a body: it is taken where the operator allows it, and costs no more memory than three times its size."""

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from backstop.runtime.blobs import FolderBlobs
from backstop.runtime.process.garbage import return_large_blocks
from receiver.limits import Limits
from tests.hostile.pauses import least_pause_s
from tests.unit.receiver.ingress import Ingress, with_ingress

BODY_BYTES = 20_000_000
MEMORY_BYTES_MAX = 64 << 20
CLIENT_BYTES_MAX = 8 << 20
"""Buffers of the client, which lives in the same process here."""

PAUSE_S_MAX = 0.050
LARGEST_BYTES = 40_000_000

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
    "a photo after one emoji": b"iVBORw0KGg" * 5_000,
    "a text with escapes": b'Said, "no": \\n'.replace(b'"', b'\\"') * 2_500,
    "a text of four-byte characters": "Grüße 😀, ".encode() * 3_571,
    "escaped four-byte characters": b"\\ud83d\\ude00" * 4_000,
    "texts of some lines": b'","'.join(["😀".encode() + b"x" * 1_400] * 30),
    "spaces": b'",' + b" " * 50_000 + b'"',
}


async def chunks(path: str, content: str = "a photo", size_bytes: int = BODY_BYTES) -> AsyncIterator[bytes]:
    head, tail = HEADS[path]
    text = CONTENTS[content]
    yield head.removesuffix(b'"') + b'["' + ("😀".encode() if "emoji" in content else b"")
    for _ in range(size_bytes // len(text)):
        yield text
    yield b'"]' + tail.removeprefix(b'"')


@pytest.mark.parametrize(
    ("path", "content"), [("/v1/jobs", "a photo"), *(("/v1/responses", content) for content in CONTENTS)]
)
def test_a_body_of_twenty_megabytes_costs_little_memory(tmp_path: Path, path: str, content: str) -> None:
    return_large_blocks()

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("POST", path, data=b"".join(HEADS[path]), headers=JSON))[0] in {200, 202}
        before_bytes = resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        status, document, _ = await ingress.call("POST", path, data=chunks(path, content), headers=JSON)
        cost_bytes = resident_bytes("VmHWM") - before_bytes
        print(f"{path}, {content}: {cost_bytes / 2**20:.1f} MiB")
        assert status in {200, 202}, document
        assert len(str(ingress.publisher.landed)) < 10_000, "the log has a reference"
        assert cost_bytes <= MEMORY_BYTES_MAX + CLIENT_BYTES_MAX

    with_ingress(
        story, blobs=FolderBlobs(tmp_path / "blobs"), submit_bytes_max=32 << 20, limits=Limits(submit_body_s=60)
    )


@pytest.mark.parametrize(
    ("path", "content"), [("/v1/jobs", "a photo"), *(("/v1/responses", content) for content in CONTENTS)]
)
@pytest.mark.usefixtures("settled")
def test_a_body_of_forty_megabytes_makes_no_long_pause(tmp_path: Path, path: str, content: str) -> None:
    async def story(ingress: Ingress) -> None:
        async def create() -> None:
            sent = chunks(path, content, LARGEST_BYTES)
            status, document, _ = await ingress.call("POST", path, data=sent, headers=JSON)
            assert status in {200, 202}, document

        assert await least_pause_s(PAUSE_S_MAX, create) <= PAUSE_S_MAX

    limits = Limits(submit_body_s=60)
    with_ingress(story, blobs=FolderBlobs(tmp_path), submit_bytes_max=64 << 20, limits=limits)


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

        assert await least_pause_s(PAUSE_S_MAX, again) <= PAUSE_S_MAX

    with_ingress(story, blobs=FolderBlobs(tmp_path), submit_bytes_max=32 << 20, limits=Limits(submit_body_s=60))


def test_what_is_larger_than_allowed_hears_the_limit_and_the_way_out() -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", "/v1/jobs", data=chunks("/v1/jobs"), headers=JSON)
        assert (status, document["code"]) == (413, "body_too_large")
        assert "1048576 bytes" in document["detail"]
        assert "file_url" in document["detail"]

    with_ingress(story)
