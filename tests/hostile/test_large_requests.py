"""A large request is sent as it was stored, and holds up no other call of the worker while it is."""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from prometheus_client import CollectorRegistry

from backstop.runtime.blobs import Bodies, FolderBlobs
from streams.large_requests import LargeRequests
from streams.large_split import ALWAYS, SMALL_BYTES_MAX, SMALL_BYTES_SUM_MAX, split
from streams.provider import Rejected
from streams.workers.metrics import WorkerMetrics
from streams.workers.request_reading import RequestReader
from tests.hostile.pauses import least_pause_s
from tests.unit.streams.workers.submitting import Bench, create, submitting

PAUSE_S_MAX: Final = 0.100
SIZE_BYTES: Final = 40 << 20

TEXTS: Final = {
    "a photo": "iVBORw0KGg",
    "escapes": '\n"\\',
    "four-byte characters": "😀",
}


@pytest.mark.parametrize(
    "name", [name if name == "escapes" else pytest.param(name, marks=pytest.mark.long) for name in TEXTS]
)
def test_no_request_holds_up_the_worker(name: str, tmp_path: Path) -> None:
    unit = TEXTS[name]
    text = unit * (SIZE_BYTES // len(orjson.dumps(unit)[1:-1]))
    request = {"model": "m", "metadata": {"mine": "kept"}, "input": text, "stream": False, "zz": 1}

    async def scenario() -> None:
        async with submitting(tmp_path, bodies_memory_bytes_max=1 << 30) as bench:
            body = await Bodies(bench.blobs, 10).put(request)
            numbers = iter(range(1, 100))

            async def send() -> None:
                number = next(numbers)
                command = create(f"job_{number}", request=body).model_copy(update={"timeout_ms": 60_000})
                bench.commands.publish(command)
                await bench.facts(number, 60)

            assert await least_pause_s(PAUSE_S_MAX, send) <= PAUSE_S_MAX
            _assert_sent(bench, request)

    asyncio.run(scenario())


def _assert_sent(bench: Bench, request: dict[str, Any]) -> None:
    sent = bench.server.requests[0].json()
    ours = {"backstop_job": "job_1", "backstop_attempt": "1", "backstop_tenant": "acme"}
    assert sent.pop("metadata") == {"mine": "kept", **ours}
    assert sent == {name: value for name, value in request.items() if name != "metadata"} | {
        "background": True,
        "store": True,
    }


@pytest.mark.parametrize(
    "request_body",
    [
        {"model": "m", "input": "x" * SMALL_BYTES_MAX},
        {"metadata": {str(n): "\x01" * 512 for n in range(100)}, **{f"m{n}": "x" * 20_000 for n in range(100)}},
        {"input": "x" * SMALL_BYTES_MAX, "tools": ["é" * SMALL_BYTES_MAX], "model": "m", "b": {"z": 1, "a": [None]}},
        {'"': "y" * SMALL_BYTES_MAX, "": "z" * SMALL_BYTES_MAX},
        {"model": "m"},
        {},
    ],
)
def test_the_two_parts_of_a_request_are_all_of_it(request_body: dict[str, Any]) -> None:
    found = split(orjson.dumps(request_body))
    assert found is not None
    (small, names), rest = orjson.loads(found[0]), orjson.loads(b"".join(found[1]) or b"{}")
    assert small | rest == request_body
    assert names == sorted(rest)
    assert not small.keys() & rest.keys()
    assert not ALWAYS & rest.keys(), "a create sends these itself, and none twice"
    assert len(found[0]) <= 2 * SMALL_BYTES_SUM_MAX


MEMORY_BYTES_MAX: Final = 48 << 20
"""Of a process that reads a request of 20 MB apart, beyond what it takes for a small one: the text twice. The worker
has it once at that time, or its last process does.
"""


READING: Final = """
import sys
from pathlib import Path
from streams.large_split import main
assert main(int(sys.argv[1]), int(sys.argv[2])) == 0
print("\\n" + Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def reader_peak_bytes(data: bytes) -> int:
    """The most memory that a process had in which the module ran."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as written:
        given.write(data)
        given.seek(0)
        files = given.fileno(), written.fileno()
        command = [sys.executable, "-P", "-c", READING, *map(str, files)]
        return int(subprocess.check_output(command, pass_fds=files).splitlines()[-1]) << 10


@pytest.mark.parametrize("members", [1, 20])
@pytest.mark.parametrize("begin", ["", "😀"])
def test_a_process_that_reads_twenty_megabytes_apart_costs_little_memory(members: int, begin: str) -> None:
    text = begin + TEXTS["a photo"] * (2_000_000 // members)
    request = {"model": "m", **{f"m{number}": text for number in range(members)}}
    assert reader_peak_bytes(orjson.dumps(request)) - reader_peak_bytes(b'{"model":"m"}') <= MEMORY_BYTES_MAX


def test_a_large_text_that_is_no_object_fails_its_job_alone() -> None:
    assert asyncio.run(LargeRequests().read(b'["x"]')) is None


def test_a_reader_that_fails_sends_nothing_and_the_job_comes_again(tmp_path: Path) -> None:
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o700)

    async def scenario() -> None:
        blobs = FolderBlobs(tmp_path / "blobs")
        body = await Bodies(blobs, 10).put({"model": "m", "input": "x" * (3 << 20)})
        reader = RequestReader(blobs, WorkerMetrics(CollectorRegistry()), LargeRequests(str(failing)))
        read = await reader.read(create(request=body))
        assert isinstance(read, Rejected)
        assert (read.cause, read.code) == ("unsent", "request_not_read")

    asyncio.run(scenario())
