"""Chat completions for a server that wants a model behind it: the same text for the same prompt, after a fixed time.

`python -m tests.providers.stub --port N --run-s S`. `GET /calls` tells how often each prompt was asked for.
"""

import argparse
import asyncio
import hashlib
import json
from collections import Counter
from typing import Any

from aiohttp import web

MODEL = "stub"


def text_of(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _prompt(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _chunks(text: str) -> list[dict[str, Any]]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    return [
        {
            **head,
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}],
        },
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {**head, "choices": [], "usage": usage},
    ]


def build(run_s: float) -> web.Application:
    calls: Counter[str] = Counter()

    async def models(_request: web.Request) -> web.Response:
        return web.json_response({
            "object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "stub"}],
        })  # fmt: skip

    async def told(_request: web.Request) -> web.Response:
        return web.json_response(calls)

    async def complete(request: web.Request) -> web.StreamResponse:
        prompt = _prompt(await request.json())
        calls[prompt] += 1
        await asyncio.sleep(run_s)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for chunk in _chunks(text_of(prompt)):
            await answer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await answer.write(b"data: [DONE]\n\n")
        return answer

    app = web.Application()
    app.router.add_get("/v1/models", models)
    app.router.add_get("/calls", told)
    app.router.add_post("/v1/chat/completions", complete)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--run-s", type=float, default=0.2)
    given = parser.parse_args()
    web.run_app(build(given.run_s), host="127.0.0.1", port=given.port, print=None, access_log=None)


if __name__ == "__main__":
    main()
