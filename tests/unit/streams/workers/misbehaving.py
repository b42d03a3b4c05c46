"""A small server that answers each request with given bytes or a given fault, and counts the requests."""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Mischief = Callable[[asyncio.StreamWriter], Awaitable[None]]

RESPONSE_ID = "resp_67cb71b351908190a308f3859487620d06981a8637e6bc44"


def response(**changes: Any) -> dict[str, Any]:
    """A queued response, complete, as the API sends it."""
    return {
        "id": RESPONSE_ID, "object": "response", "created_at": 1795341600, "status": "queued", "background": True,
        "store": True, "model": "gpt-6-astra", "output": [], "usage": None, "error": None, "incomplete_details": None,
        "completed_at": None, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "metadata": {"backstop_job": "job_1", "backstop_attempt": "1", "backstop_tenant": "acme"}, **changes,
    }  # fmt: skip


def completed(**changes: Any) -> dict[str, Any]:
    item = {
        "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}],
    }  # fmt: skip
    usage = {
        "input_tokens": 36, "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 87, "output_tokens_details": {"reasoning_tokens": 64}, "total_tokens": 123,
    }  # fmt: skip
    return response(status="completed", completed_at=1795341660, output=[item], usage=usage, **changes)


def answer(status: int, body: Any, *, content_type: str = "application/json", **headers: str) -> Mischief:
    """A well-formed answer; `body` is bytes as they are, or JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"content-type": content_type, "content-length": str(len(data)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + data)
        await writer.drain()

    return send


def html(status: int) -> Mischief:
    return answer(status, b"<html>Attention Required</html>", content_type="text/html")


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def stall(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
    await _trickle(writer, b" ")


async def slow_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-padding: ")
    await _trickle(writer, b"x")


async def _trickle(writer: asyncio.StreamWriter, byte: bytes) -> None:
    while True:
        writer.write(byte)
        await writer.drain()
        await asyncio.sleep(0.02)


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"id": "resp_1",')
    await writer.drain()
    writer.close()


async def not_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.7\r\n")
    await writer.drain()
    writer.close()


def redirect(status: int, location: str) -> Mischief:
    return answer(status, b"", location=location)


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    port: int = 0
    script: list[Mischief] = field(default_factory=list)
    """One for each request to come; the last one stays."""
    requests: list[Seen] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def posts(self) -> int:
        return sum(1 for request in self.requests if request.method == "POST")

    def next(self) -> Mischief:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@asynccontextmanager
async def serving(*script: Mischief, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve until the block ends; then nothing of it is left."""
    state = Server(script=list(script))
    handlers: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        writers.append(writer)
        try:
            while True:
                state.requests.append(await _request(reader))
                await state.next()(writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()  # TLS that closes waits for the client, which is gone.
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        await server.wait_closed()


async def _request(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, body)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
