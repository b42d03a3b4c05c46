"""The proxy of the fault tests does what it says, or what passes behind it proves nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backstop.runtime.process.clock import monotonic_s
from tests.support.fault_proxy import HOST, FaultProxy, Faults

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
WITHIN_S = 5.0


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[FaultProxy, Callable[[], Coroutine[Any, Any, Ends]]]]:
    """An echo server behind a proxy, and how to connect to it."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    proxy = FaultProxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    open_ones: list[asyncio.StreamWriter] = []

    async def connect() -> Ends:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        open_ones.append(writer)
        return reader, writer

    try:
        yield proxy, connect
    finally:
        for writer in open_ones:
            writer.close()
        await proxy.stop()
        server.close()
        await server.wait_closed()


async def says(ends: Ends, text: bytes) -> bytes:
    """What comes back."""
    reader, writer = ends
    writer.write(text)
    async with asyncio.timeout(WITHIN_S):
        return await reader.readexactly(len(text))


def run(scenario: Callable[[FaultProxy, Callable[[], Coroutine[Any, Any, Ends]]], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with proxied() as (proxy, connect):
            await scenario(proxy, connect)

    asyncio.run(main())


def test_bytes_pass_unchanged_and_an_end_is_handed_on() -> None:
    async def scenario(proxy: FaultProxy, connect: Any) -> None:
        ends = await connect()
        big = bytes(range(256)) * 4_000
        assert await says(ends, big) == big
        ends[1].write_eof()
        async with asyncio.timeout(WITHIN_S):
            assert await ends[0].read() == b""
        assert proxy.connections == 1

    run(scenario)


def test_latency_and_bandwidth_take_time_both_ways() -> None:
    async def scenario(proxy: FaultProxy, connect: Any) -> None:
        for faults, least_s in ((Faults(latency_s=0.1), 0.2), (Faults(bytes_per_s=10_000), 0.14)):
            ends = await connect()
            proxy.faults = faults
            began_s = monotonic_s()
            assert await says(ends, b"x" * 1_000) == b"x" * 1_000
            assert monotonic_s() - began_s >= least_s
            proxy.heal()

    run(scenario)


def test_sliced_data_arrives_whole_in_small_pieces() -> None:
    async def scenario(proxy: FaultProxy, connect: Any) -> None:
        proxy.faults = Faults(slice_bytes=3)
        reader, writer = await connect()
        writer.write(bytes(range(100)))
        pieces: list[bytes] = []
        async with asyncio.timeout(WITHIN_S):
            while sum(map(len, pieces)) < 100:
                pieces.append(await reader.read(1 << 16))
        assert b"".join(pieces) == bytes(range(100))
        assert len(pieces) > 5

    run(scenario)


def test_a_reset_reaches_both_ends_and_new_connections_are_good() -> None:
    async def scenario(proxy: FaultProxy, connect: Any) -> None:
        ends = await connect()
        assert await says(ends, b"hello") == b"hello"
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(WITHIN_S):
                await ends[0].read()
        assert await says(await connect(), b"again") == b"again"

    run(scenario)


def test_limited_data_is_cut_in_the_midst() -> None:
    async def scenario(proxy: FaultProxy, connect: Any) -> None:
        ends = await connect()
        assert await says(ends, b"hello") == b"hello"
        proxy.limit_data(3)
        ends[1].write(b"0123456789")
        got = b""
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(WITHIN_S):
                got = await ends[0].readexactly(10)
        assert got == b""

    run(scenario)


def test_a_black_hole_is_silent_and_a_connection_that_lost_bytes_is_reset_when_it_heals() -> None:
    async def scenario(proxy: FaultProxy, connect: Any) -> None:
        swallowed, untouched = await connect(), await connect()
        assert await says(untouched, b"1") == b"1"
        proxy.faults = Faults(black_hole=True)
        swallowed[1].write(b"hello")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await swallowed[0].read(1)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(WITHIN_S):
                await swallowed[0].read(1)
        assert await says(untouched, b"2") == b"2"

    run(scenario)


def test_a_refused_connection_is_reset() -> None:
    async def scenario(proxy: FaultProxy, connect: Any) -> None:
        proxy.faults = Faults(refused=True)
        with pytest.raises(OSError):
            await says(await connect(), b"hello")
        proxy.heal()
        assert await says(await connect(), b"hello") == b"hello"

    run(scenario)
