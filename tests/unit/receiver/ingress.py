"""A real receiver on loopback with a log in memory, and clients for it."""

import asyncio
import base64
import hashlib
import hmac
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from backstop.outgoing.endpoints import Endpoints
from backstop.runtime.blob_folders import BlobFolders
from backstop.runtime.blobs import BlobStore, FolderBlobs
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.chance import random_hex
from receiver.app import build_app, serve
from receiver.ingress.submissions import FindJob
from receiver.limits import Limits
from receiver.lookups import JobReads
from receiver.partial_output.listeners import Changes
from receiver.settings import ReceiverSettings
from tests.support.memory_publisher import MemoryPublisher
from tests.support.waiting import eventually

SECRET = "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c="
OTHER_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
NOW_MS = 1_750_861_210_000
EVENT = b'{"id":"evt_1","object":"event","created_at":1750861209,"type":"response.completed","data":{"id":"resp_123"}}'
SUBMIT = {"request": {"model": "gpt-5", "input": "hello"}}


def signed(
    body: bytes, *, secret: str = SECRET, webhook_id: str = "wh_1", at_s: int = NOW_MS // 1000
) -> dict[str, str]:
    """Headers for `body`. Signed by hand, so that an empty key and bytes that are not text can be signed too."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{webhook_id}.{at_s}.".encode() + body, hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(digest).decode()
    return {"webhook-id": webhook_id, "webhook-timestamp": str(at_s), "webhook-signature": signature}


@dataclass
class Ingress:
    port: int
    publisher: MemoryPublisher
    session: aiohttp.ClientSession
    app: web.Application
    clock: list[int]
    """One item: the time that the receiver reads, in unix milliseconds."""
    stop: asyncio.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def webhook(self, body: bytes = EVENT, headers: Any = None) -> aiohttp.ClientResponse:
        headers = signed(body) if headers is None else headers
        async with self.session.post(f"{self.url}/webhooks/openai", data=body, headers=headers) as response:
            await response.read()
            return response

    async def submit(self, body: Any = SUBMIT, **headers: str) -> tuple[int, Any, aiohttp.ClientResponse]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", "/v1/jobs", json=body, headers=named)

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        async with self.session.request(method, f"{self.url}{path}", **options) as response:
            await response.read()
            document = await response.json(content_type=None) if "json" in response.content_type else None
            return response.status, document, response

    async def metric(self, line: str) -> float | None:
        """The value of one sample, named as `/metrics` shows it."""
        async with self.session.get(f"{self.url}/metrics") as response:
            found = [row for row in (await response.text()).splitlines() if row.startswith(f"{line} ")]
        return float(found[0].split()[-1]) if found else None


def settings(**changed: Any) -> ReceiverSettings:
    """Development, unless a keys file is named."""
    return ReceiverSettings(
        **{"webhook_secrets": SECRET, "development": "keys_file" not in changed, "metrics_public": True, **changed}
    )


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    limits: Limits | None = None,
    find_job: FindJob | None = None,
    reads: JobReads | None = None,
    changes: Changes | None = None,
    publisher: Publisher | None = None,
    blobs: BlobStore | None = None,
    add_routes: Callable[[web.Application], None] | None = None,
    endpoints: Callable[[MemoryPublisher], Endpoints] | None = None,
    folders: BlobFolders | None = None,
    **changed: Any,
) -> AsyncIterator[Ingress]:
    limits = limits or Limits()
    memory = MemoryPublisher()
    clock = [NOW_MS]
    changed.setdefault("data_dir", folder)
    app = build_app(
        settings(**changed), publisher or memory, blobs or FolderBlobs(folder / "blobs"), lambda: clock[0], random_hex,
        reads, find_job=find_job, limits=limits, endpoints=endpoints(memory) if endpoints else None, changes=changes,
        folders=folders,
    )  # fmt: skip
    if add_routes is not None:
        add_routes(app)
    stop = asyncio.Event()
    port_file = folder / "port"
    serving = asyncio.create_task(serve(app, "127.0.0.1", 0, limits, stop, port_file))
    try:
        await eventually(lambda: serving.done() or port_file.exists(), 5, "the receiver to listen")
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield Ingress(int(port_file.read_text()), memory, session, app, clock, stop)
    finally:
        stop.set()
        await asyncio.wait_for(serving, 15)


def with_ingress(story: Callable[[Ingress], Awaitable[None]], **options: Any) -> None:
    """Run `story` against a receiver of its own."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with opened(Path(folder), **options) as ingress:
                await story(ingress)

    # On the loop that production runs on: it is its transports that the limits are about.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def raw_exchange(port: int, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Send `data` unchanged; return all bytes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), timeout_s)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
