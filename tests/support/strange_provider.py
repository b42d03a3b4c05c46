"""A provider that speaks raw bytes, and behaves as its models are called: `python -m tests.support.strange_provider`.

It shares nothing with the simulator or with the product, but the shape of a response. What it saw is told at
`GET /seen`; `POST /set` changes how it behaves for all models: `away`, and `hooks`, where webhooks go.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

OUTPUT: Final = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "strange"}]}]
USAGE: Final = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
NO_KEY: Final = {"message": "Incorrect API key provided.", "type": "invalid_request_error", "code": "invalid_api_key"}
NO_QUOTA: Final = {"message": "You exceeded your current quota.", "type": "insufficient_quota"}
OVERLOADED: Final = {"message": "The server is overloaded.", "code": "server_is_overloaded"}
AWAY: Final[dict[str, tuple[int, Any]]] = {
    "401": (401, {"error": NO_KEY}), "quota": (429, {"error": {**NO_QUOTA, "code": "insufficient_quota"}}),
    "503": (503, {"error": OVERLOADED}),
}  # fmt: skip


@dataclass
class Made:
    id: str
    model: str
    metadata: dict[str, str]
    at_s: float
    ends_s: float
    polls: int = 0
    cancelled: bool = False

    @property
    def attempt(self) -> int:
        return int(self.metadata["backstop_attempt"])

    def body(self, **changes: Any) -> dict[str, Any]:
        status = "cancelled" if self.cancelled else "completed" if time.monotonic() >= self.ends_s else "in_progress"
        ended = status == "completed"
        return {
            "id": self.id, "object": "response", "created_at": 1_795_341_600, "status": status, "model": self.model,
            "output": OUTPUT if ended else [], "usage": USAGE if ended else None, "metadata": self.metadata, **changes,
        }  # fmt: skip


@dataclass
class Strange:
    run_s: float
    secret: bytes
    away: str = ""
    hooks: str = ""
    made: dict[str, Made] = field(default_factory=dict)
    posts: Counter[str] = field(default_factory=Counter)
    """Creates by job."""
    told: list[tuple[float, str, str]] = field(default_factory=list)
    """Creates that were refused for `away`: when, how, and the model."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    numbers: Any = field(default_factory=itertools.count)

    def seen(self) -> dict[str, Any]:
        responses = [
            [made.model, made.metadata["backstop_job"], made.attempt, made.cancelled] for made in self.made.values()
        ]
        return {"posts": self.posts, "responses": responses, "refused": self.told}

    def make(self, request: dict[str, Any]) -> Made:
        model = request["model"]
        name = f"resp_{next(self.numbers)}"
        if model == "long_id":
            name = base64.b64encode(name.encode() * 80).decode()[:451] + "=="
        now_s = time.monotonic()
        runs_s = 1e9 if model == "stuck" and request["metadata"]["backstop_attempt"] == "1" else self.run_s
        made = Made(name, model, request["metadata"], now_s, now_s + (0 if model == "instant" else runs_s))
        self.made[name] = made
        if self.hooks and runs_s < 1e9:
            task = asyncio.create_task(self.hook(made))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return made

    async def hook(self, made: Made) -> None:
        await asyncio.sleep(max(0, made.ends_s - time.monotonic()) + 0.05)
        body = json.dumps({
            "id": f"evt_{made.id[:40]}", "object": "event", "created_at": int(time.time()),
            "type": "response.completed", "data": {"id": made.id},
        })  # fmt: skip
        at, name = str(int(time.time())), f"wh_{hashlib.sha256(made.id.encode()).hexdigest()[:32]}"
        signed = hmac.new(self.secret, f"{name}.{at}.{body}".encode(), hashlib.sha256).digest()
        url = urlsplit(self.hooks)
        lines = (
            f"POST {url.path} HTTP/1.1", f"host: {url.netloc}", "content-type: application/json", "connection: close",
            f"content-length: {len(body)}", f"webhook-id: {name}", f"webhook-timestamp: {at}",
            f"webhook-signature: v1,{base64.b64encode(signed).decode()}", "", body,
        )  # fmt: skip
        try:
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            writer.write("\r\n".join(lines).encode())
            await reader.read()
            writer.close()
        except OSError:
            pass  # Lost, as webhooks are.


def answer(status: int, body: Any, *lines: str, length: int | None = None) -> bytes:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    length = len(data) if length is None else length
    head = (f"HTTP/1.1 {status} Strange", "content-type: application/json", f"content-length: {length}", *lines, "", "")
    return "\r\n".join(head).encode() + data


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


FIRST: Final[dict[str, bytes]] = {
    "error_in_200": answer(200, {"error": {"code": "rate_limit_exceeded", "message": "Please try again in 1s."}}),
    "text_first": b"HTTP/1.1 400 Bad\r\ncontent-type: text/plain\r\ncontent-length: 36\r\n\r\n"
    b"The queue is full. Try again later.\n",
    "locked_first": answer(400, {"error": {"code": "conversation_locked", "message": "Another process is using it."}}),
}  # fmt: skip
"""How the first create of a job is refused. Each of them passes."""


async def create(strange: Strange, request: dict[str, Any], writer: asyncio.StreamWriter) -> bytes:
    model, job = request["model"], request["metadata"]["backstop_job"]
    strange.posts[job] += 1
    if strange.away:
        strange.told.append((time.monotonic(), strange.away, model))
        return answer(*AWAY[strange.away])
    if model in FIRST and strange.posts[job] == 1:
        return FIRST[model]
    if model == "words":
        return answer(422, {"detail": "the input is too short for this model"})
    made = strange.make(request)
    match model:
        case "foreground":
            await asyncio.sleep(strange.run_s + 0.1)
            return answer(200, made.body(background=False))
        case "list":
            others = [one.body() for one in strange.made.values() if one is not made][-2:]
            return answer(200, {"object": "list", "data": [*others, made.body(), *others]})
        case "short_length":
            body = json.dumps(made.body())
            return answer(200, body, length=len(body) - 1)
        case "two_lengths":
            return answer(200, made.body(), "content-length: 7")
        case "cut":
            writer.write(answer(200, json.dumps(made.body())[:60], length=900))
        case "head_alone":
            writer.write(answer(200, "", length=900))
        case _:
            return answer(200, made.body())
    await writer.drain()
    await asyncio.sleep(0.05)
    reset(writer)
    return b""


def poll(strange: Strange, made: Made) -> bytes:
    made.polls += 1
    body = made.body()
    match made.model:
        case "null_output" if body["status"] == "completed":
            return answer(200, {**body, "output": None})
        case "missing_once" if made.polls == 2:
            return answer(404, {"detail": "not found"})
        case "missing_once" if made.polls == 1:
            return answer(200, {**body, "status": "in_progress", "output": []})
        case "fails_first" if made.attempt == 1 and body["status"] == "completed":
            error = {"code": "rate_limit_exceeded", "message": "Please try again in 1s."}
            return answer(200, {**body, "status": "failed", "error": error, "output": [], "usage": None})
        case "odd_status":
            return answer(200, {**body, "status": "hibernating", "output": []})
        case "list":
            return answer(200, [one.body() for one in strange.made.values() if one.model == "list"])
        case "short_length":
            return answer(200, body, length=len(json.dumps(body)) - 1)
        case _:
            return answer(200, body)


async def respond(
    strange: Strange, method: str, path: str, body: dict[str, Any], writer: asyncio.StreamWriter
) -> bytes:  # fmt: skip
    if path == "/seen":
        return answer(200, strange.seen())
    if path == "/set":
        strange.away, strange.hooks = body.get("away", strange.away), body.get("hooks", strange.hooks)
        return answer(200, {})
    if method == "POST" and path == "/v1/responses":
        return await create(strange, body, writer)
    _, _, _, name, *action = path.split("/")
    made = strange.made.get(unquote(name))
    if made is None:
        return answer(404, {"error": {"message": f"Response with id '{name}' not found.", "code": None}})
    if action == ["cancel"]:
        made.cancelled = made.cancelled or time.monotonic() < made.ends_s
        return answer(200, made.body())
    return poll(strange, made)


async def serve(port: int, run_s: float, secret: bytes) -> None:
    strange = Strange(run_s, secret)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *headers = head.split("\r\n")
                lengths = [one.split(":")[1] for one in headers if one.lower().startswith("content-length:")]
                content = await reader.readexactly(int(lengths[0])) if lengths else b""
                method, target, _ = line.split(" ")
                path, body = urlsplit(target).path, json.loads(content) if content else {}
                writer.write(await respond(strange, method, path, body, writer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--run-s", type=float, default=1.0)
    parser.add_argument("--secret", required=True, help="of webhooks, in base64")
    given = parser.parse_args()
    asyncio.run(serve(given.port, given.run_s, base64.b64decode(given.secret)))


if __name__ == "__main__":
    main()
