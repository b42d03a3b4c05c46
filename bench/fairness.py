"""Measures what shares and turns cost the HTTP ingress: `python -m bench.fairness [--blocks 30] [--requests 300]`.

One receiver with a log in memory, and one client on a kept connection, in this process. Blocks of requests alternate
between shares and turns as they are, and such as grant everything and count nothing; each pair of blocks gives one
difference in processor time. So a busy machine changes both of a pair.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import uvloop

from backstop.runtime.shares import Shares
from receiver.turns import LoopTurns
from tests.unit.receiver.ingress import opened
from tests.unit.receiver.reads import MemoryReads
from tests.unit.receiver.test_sdk_keys import Ring

REQUEST = {"model": "gpt-5.2", "input": "Say hello."}
BODIES = {"/v1/jobs": {"request": REQUEST}, "/v1/responses": {**REQUEST, "background": True}}


class Client:
    """One kept connection; it parses no more than the length of an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: str) -> None:
        self._reader, self._writer, self._headers = reader, writer, headers

    async def post(self, path: str, body: bytes) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}{self._headers}\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 202", b"HTTP/1.1 200")), answer
        length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))


@contextmanager
def shares_that_count_nothing() -> Iterator[None]:
    with (
        mock.patch.multiple(Shares, ask=lambda *_: "granted", ask_sparing=lambda *_: True, give_back=lambda *_: None),
        mock.patch.object(LoopTurns, "now", return_value=True),
    ):
        yield


async def block_us(client: Client, path: str, requests: int) -> float:
    """Processor time of a request, in microseconds."""
    body = json.dumps(BODIES[path]).encode()
    began_s = time.process_time()
    for _ in range(requests):
        await client.post(path, body)
    return (time.process_time() - began_s) / requests * 1e6


async def measure(blocks: int, requests: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        ring = Ring(Path(folder) / "keys.json")
        headers = f"Authorization: {ring.add('acme')['Authorization']}\r\n"
        async with opened(Path(folder), keys_file=ring.path, reads=MemoryReads()) as ingress:
            reader, writer = await asyncio.open_connection("127.0.0.1", ingress.port)
            client = Client(reader, writer, headers)
            for path in BODIES:
                await block_us(client, path, requests)  # warm
                pairs = []
                for number in range(blocks):
                    fair_first = number % 2 == 0
                    one = await _block(client, path, requests, fair=fair_first)
                    two = await _block(client, path, requests, fair=not fair_first)
                    pairs.append((one, two) if fair_first else (two, one))
                    ingress.publisher.landed.clear()
                shares = [(fair - free) / free * 100 for fair, free in pairs]
                low, middle, high = statistics.quantiles(shares, n=4)
                found[path] = {
                    "fair_us": round(statistics.median(fair for fair, _ in pairs), 1),
                    "free_us": round(statistics.median(free for _, free in pairs), 1),
                    "cost_percent": round(middle, 2),
                    "quartiles_percent": [round(low, 2), round(high, 2)],
                }
            writer.close()
    return found


async def _block(client: Client, path: str, requests: int, *, fair: bool) -> float:
    if fair:
        return await block_us(client, path, requests)
    with shares_that_count_nothing():
        return await block_us(client, path, requests)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=__doc__)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--requests", type=int, default=300)
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(measure(given.blocks, given.requests)), indent=1))


if __name__ == "__main__":
    main()
