"""A large body becomes the same fact with the same hash, or the same refusal, as one that is read as a whole."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from backstop.runtime.blobs import Bodies, FolderBlobs
from receiver import bodies
from receiver.ingress.jobs import parse_submit
from receiver.ingress.previous import PreviousResponses
from receiver.limits import DEAR_BYTES_MAX, Limits
from receiver.problems import Refusal
from receiver.responses_api.creates import to_submit
from receiver.responses_api.handlers import _object_of
from receiver.stored_objects import in_short
from schemas import long_json
from schemas.long_texts import LARGE_BYTES
from schemas.prompt_cache import CacheRule
from schemas.requests import METADATA_PAIRS_MAX, Submit
from streams.policy.caps import input_tokens_of
from streams.submission import SubmissionPolicy, prepare, to_submitted

LONG: Final = "long, 😀\n" * 99
ID: Final = "A" * 999
POLICY: Final = SubmissionPolicy(
    shared_ids=("vs_shared*", f"file-{ID}"),
    prompt_cache_rules=(CacheRule(policy="shard", key="long,*"),),
)

REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "a text": {"input": LONG},
    "a long name": {LONG: {LONG: 1, LONG + "x": LONG}},
    "a model": {"model": LONG},
    "an id of a file": {"input": [{"content": [{"file_id": f"file-{ID}x"}]}]},
    "a shared id": {"input": [{"content": [{"file_id": f"file-{ID}"}, {"vector_store_id": f"vs_shared{ID}"}]}]},
    "an id as a URL": {"input": [{"content": [{"image_url": f"file-{ID}"}]}]},
    "no id as a URL": {"input": [{"content": [{"image_url": f"file-{ID} "}]}]},
    "a connector": {"tools": [{"type": "mcp", "connector_id": "connector_" + "a" * 999}]},
    "no connector": {"tools": [{"type": "mcp", "connector_id": "connector_" + "a" * 999 + "1"}]},
    "reasoning": {"input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": " " * 999 + "x"}]},
    "empty reasoning": {"input": [{"type": "reasoning", "id": "rs_1", "encrypted_content": " " * 999}]},
    "a tuned model": {"tools": [{"type": "image_generation", "model": "x" * 999 + ":FT-x"}]},
    "no tuned model": {"tools": [{"type": "image_generation", "model": "x" * 999 + "::ft-"}]},
    "metadata": {"metadata": {"a": "x" * 513}},
    "metadata up to the limit": {"metadata": {f"a{n}": "é" * 512 for n in range(METADATA_PAIRS_MAX)}},
    "a long name in metadata": {"metadata": {LONG: "x"}},
    "include": {"include": [LONG, "reasoning.encrypted_content"]},
    "a key for the cache": {"prompt_cache_key": LONG},
    "another key for the cache": {"prompt_cache_key": ID},
    "an earlier response": {"previous_response_id": LONG},
    "instructions": {"instructions": LONG, "input": "x" * 999},
}
AROUND: Final[dict[str, Any]] = {
    "job_id": ID, "session_id": ID, "tags": ["a", ID], "type": ID, "priority": ID, "timeout_ms": ID, "hedge": ID,
    "fallback": {"to": [{"model": ID}]}, "max_cost_usd": ID, "v": ID, ID: 1, "job_id/": LONG, "request": ID,
    "deadline_at_ms": ID, "retries_max": [ID], "not_before_ms": {"a": ID},
}  # fmt: skip
BODIES: Final = {
    **{name: {"request": {"model": "m"} | request} for name, request in REQUESTS.items()},
    **{f"around: {name[:20]}": {"request": {"model": "m"}, name: value} for name, value in AROUND.items()},
    "a text alone": LONG,
    "a list": [LONG],
}


def refuse_foreign(submit: Submit) -> None:
    async def never_hidden(_tenant: str, _id: str) -> bool:
        return False

    previous = PreviousResponses(None, FolderBlobs(Path()), POLICY, never_hidden, lambda *_: None, 0)
    previous.refuse_foreign(submit, "acme", "#/request")
    asyncio.run(previous.check(submit, "acme"))


def outcome(parse: Callable[[], Submit], folder: Path) -> Any:
    """What a submission becomes: everything that is kept of it, or why it is refused."""
    try:
        submit = parse()
        refuse_foreign(submit)
    except Refusal as refusal:
        return refusal.problem
    prepared = prepare(submit)
    fact = asyncio.run(to_submitted(
        prepared, job_id="job_1", tenant="acme", ingress="http", at_ms=1, policy=POLICY,
        bodies=Bodies(FolderBlobs(folder), 0),
    ))  # fmt: skip
    return fact, prepared.data, prepared.request_json, in_short(submit.request), input_tokens_of(submit.request)


def read_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LARGE_BYTES", 0)
    monkeypatch.setattr(long_json, "LARGE_BYTES", 0)


@pytest.mark.parametrize("name", BODIES)
def test_a_large_job_is_what_it_is_as_a_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = orjson.dumps(BODIES[name])
    expected = outcome(lambda: parse_submit(data, Limits()), tmp_path)
    read_as_large(monkeypatch)
    assert outcome(lambda: parse_submit(bytearray(data), Limits()), tmp_path) == expected


@pytest.mark.parametrize("name", REQUESTS)
def test_a_large_create_is_what_it_is_as_a_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = orjson.dumps({"model": "m", "background": True} | REQUESTS[name])

    def parse() -> Submit:
        return to_submit(_object_of(bytearray(data), Limits()), {}, may_stream=True)

    expected = outcome(parse, tmp_path)
    read_as_large(monkeypatch)
    assert outcome(parse, tmp_path) == expected


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        (b"x" * LARGE_BYTES, 3 * LARGE_BYTES),
        ("é".encode() * 100, 6 * 200),
        (b"\\u0041" * 100, 6 * 600),
        ("é".encode() * (5 << 20), DEAR_BYTES_MAX),
        ("é".encode() * (10 << 20), 3 * (20 << 20)),
    ],
)
def test_what_a_body_counts(body: bytes, cost: int) -> None:
    assert bodies.parsing_bytes(body) == cost - len(body)
