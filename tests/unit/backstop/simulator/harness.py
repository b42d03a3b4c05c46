"""A simulator on loopback, a receiver of its hooks, the official SDK against it, and its controls."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from openai import AsyncOpenAI, DefaultAsyncHttpx2Client
from openai.types.responses import Response
from yarl import URL

from backstop.simulator.app import build_app
from backstop.simulator.config import EndpointProfile, Profile, SimulatorConfig
from backstop.simulator.loading import merge_profile
from backstop.simulator.profiles import PRESETS
from tests.support.waiting import eventually

KEY = "sk-test"
SECRET = "whsec_RdvaYFYUXuIFuEbvZHwMfYFhUf7aMYjYcmM24+Aj40c="
FAST = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.0}, "run": {"kind": "fixed", "s": 0.02}}}}
NEVER_S = "1000000"


def profile(**changes: Any) -> Profile:
    """The calm preset with quick runs and the changes."""
    return merge_profile(merge_profile(PRESETS["calm"], FAST), changes)


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Receiver:
    """Keeps what it is sent; answers `statuses` one after the other, then 200."""

    url: str = ""
    got: list[Received] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    stall: bool = False

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.got.append(Received({key.lower(): value for key, value in request.headers.items()}, body))
        if self.stall:
            await asyncio.sleep(30)
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"location": self.url} if status == 307 else {})


@dataclass
class World:
    url: str
    sdk: AsyncOpenAI
    http: aiohttp.ClientSession
    receiver: Receiver

    async def create(self, *, job: str = "job_1", attempt: str = "1", fault: str = "", **more: Any) -> Response:
        metadata = {
            "backstop_job": job,
            "backstop_attempt": attempt,
            "backstop_tenant": "acme",
            **more.pop("metadata", {}),
        }
        if fault:
            metadata["sim_fault"] = fault
        body = {"model": "gpt-6-astra", "input": "Hello", "background": True, "store": True, **more}
        return await self.sdk.responses.create(**body, metadata=metadata)

    async def ended(self, response_id: str) -> Response:
        async def poll() -> Response | None:
            found = await self.sdk.responses.retrieve(response_id)
            return None if found.status in ("queued", "in_progress") else found

        return await eventually(poll, what=f"the end of {response_id}")

    async def control(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        async with self.http.request(method, f"{self.url}/sim/{path}", json=body) as answer:
            text = await answer.text()
            assert answer.status == status, text
            return json.loads(text)

    async def ledger(self, name: str, **query: int) -> list[dict[str, Any]]:
        async with self.http.get(f"{self.url}/sim/ledger/{name}", params=query) as answer:
            assert answer.status == 200
            return [json.loads(line) for line in (await answer.text()).splitlines()]

    async def webhooks(self, count: int, timeout_s: float = 5.0) -> list[Received]:
        """Wait for `count` hooks; all that came until then."""
        await eventually(lambda: len(self.receiver.got) >= count, timeout_s, f"{count} hooks")
        return list(self.receiver.got)

    async def raw(self, method: str, path: str, **more: Any) -> tuple[int, Any, dict[str, str]]:
        """A call of `/v1`; its status, body (read, where it is JSON) and headers."""
        status, text, headers = await self.raw_text(method, path, **more)
        is_json = headers.get("content-type", "").partition(";")[0] == "application/json"
        return status, json.loads(text) if is_json else text, headers

    async def raw_text(self, method: str, path: str, *, key: str = KEY, **more: Any) -> tuple[int, str, dict[str, str]]:
        """A call of `/v1`, its path sent as it stands."""
        headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
        url = URL(f"{self.url}/v1{path}", encoded=True)
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **more) as answer:
            found = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, await answer.text(errors="replace"), found


async def serve(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@asynccontextmanager
async def world(
    wanted: Profile | None = None, *, strict: bool = True, retries: int = 0, webhooks: bool = True, **more: Any
) -> AsyncIterator[World]:
    """A running simulator; `more` goes into its configuration."""
    receiver = Receiver()
    inbox = web.Application(client_max_size=16 << 20)
    inbox.router.add_post("/hooks", receiver.take)
    inbox_runner, inbox_url = await serve(inbox)
    receiver.url = f"{inbox_url}/hooks"
    endpoints = (EndpointProfile(receiver.url, (SECRET,)),) if webhooks else ()
    settings = {"profile": wanted or profile(), "api_keys": (KEY,), "endpoints": endpoints, **more}
    runner, url = await serve(build_app(SimulatorConfig(**settings)))
    sdk = AsyncOpenAI(
        api_key=KEY,
        base_url=f"{url}/v1",
        max_retries=retries,
        timeout=5.0,
        # Plain HTTP: reading the trust store would take most of the time of a short test.
        http_client=DefaultAsyncHttpx2Client(follow_redirects=False, trust_env=False, verify=False),
        _strict_response_validation=strict,
    )
    try:
        async with aiohttp.ClientSession() as http:
            yield World(url, sdk, http, receiver)
    finally:
        await sdk.close()
        await runner.cleanup()
        await inbox_runner.cleanup()
