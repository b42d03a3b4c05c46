"""A TCP proxy between two parties that can be made bad: slow, narrow, deaf, cut off.

`FaultProxy` listens at `address` and forwards to its target. Values in `faults` hold from the next chunk on, for open
and new connections; `reset_all` and `limit_data` affect open ones. `heal` ends all faults. Data swallowed by a black
hole is lost, so its connections are reset, as TCP itself would do in the end.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536
NARROW_TICK_S = 0.05
LINGER_NONE = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends a reset."""


@dataclass(slots=True)
class Faults:
    """All off is a good network. `black_hole`: nothing is forwarded, without an error. `refused`: new connections are
    reset at once.
    """

    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    slice_bytes: int = 0
    """Passed on in pieces of so many bytes at most, each a write and a segment of its own."""
    black_hole: bool = False
    refused: bool = False

    @property
    def read_bytes(self) -> int:
        """A narrow link hands on a little all the time, and not a lot now and then."""
        return max(1, min(CHUNK_BYTES, int(self.bytes_per_s * NARROW_TICK_S))) if self.bytes_per_s else CHUNK_BYTES


class _Link:
    """One connection: two pumps, and how many bytes it may still carry."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.bytes_left: int | None = None
        self.starved = False
        """Whether data of this connection was swallowed: the rest of its stream is useless."""

    def reset(self) -> None:
        for writer in self.writers:
            _reset(writer)


class FaultProxy:
    """One listening port before one target. All methods in the loop that started it."""

    def __init__(self, target_port: int, target_host: str = HOST) -> None:
        self.target = (target_host, target_port)
        self.faults = Faults()
        self.connections = 0
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, port, limit=CHUNK_BYTES)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def heal(self) -> None:
        self.faults = Faults()
        for link in list(self._links):
            if link.starved:
                link.reset()
            link.bytes_left = None

    def reset_all(self) -> None:
        """RST to both ends of each open connection."""
        for link in list(self._links):
            link.reset()

    def limit_data(self, bytes_max: int) -> None:
        """Each open connection is reset after so many more bytes: in the midst of a message."""
        for link in self._links:
            link.bytes_left = bytes_max

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.faults.refused:
            _reset(writer)
            return
        there, to_there = await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
        self.connections += 1
        link = _Link(writer, to_there)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, to_there))
                pumps.create_task(self._pump(link, there, writer))
        except* OSError:
            link.reset()
        finally:
            self._links.discard(link)
            for end in link.writers:
                end.close()

    async def _pump(self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(self.faults.read_bytes):
            faults = self.faults
            if faults.latency_s:
                await asyncio.sleep(faults.latency_s)
            if faults.bytes_per_s:
                await asyncio.sleep(len(chunk) / faults.bytes_per_s)
            if faults.black_hole or link.starved:
                link.starved = True
                continue
            if link.bytes_left is not None:
                chunk = chunk[: link.bytes_left]
                link.bytes_left -= len(chunk)
            for at in range(0, len(chunk), faults.slice_bytes or CHUNK_BYTES):
                sink.write(chunk[at : at + (faults.slice_bytes or CHUNK_BYTES)])
                await sink.drain()
                await asyncio.sleep(0)  # else the next piece may be joined to it
            if link.bytes_left == 0:
                link.reset()
                return
        with suppress(OSError, RuntimeError):
            sink.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    writer.transport.abort()
