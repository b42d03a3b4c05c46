import asyncio
import io
from typing import Any

import orjson
import pytest
from aiohttp import web
from multidict import CIMultiDict

from backstop.runtime.process import failpoints
from receiver.limits import Limits
from schemas.base import BlobBody, InlineBody
from schemas.jobs import CancelRequested, JobSubmitted
from schemas.requests import REQUEST_BYTES_MAX
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import NOW_MS, SUBMIT, Ingress, raw_exchange, with_ingress

OTHER = {"request": {"model": "gpt-5", "input": "something else"}}


def submitted(ingress: Ingress) -> list[JobSubmitted]:
    return [fact for fact in ingress.publisher.acked if isinstance(fact, JobSubmitted)]


def test_a_submission_is_a_fact_before_it_is_answered() -> None:
    async def story(ingress: Ingress) -> None:
        status, document, response = await ingress.submit(
            {**SUBMIT, "session_id": "s1", "tags": ["a"], "retries_max": 1}
        )
        (fact,) = submitted(ingress)
        assert status == 202
        assert document == {
            "job_id": fact.job_id,
            "status": "accepted",
            "deadline_at_ms": NOW_MS + 6 * 3_600_000,
            "links": {"self": f"/v1/jobs/{fact.job_id}", "cancel": f"/v1/jobs/{fact.job_id}/cancel"},
        }
        assert response.headers["Location"] == f"/v1/jobs/{fact.job_id}"
        assert fact.job_id.startswith("job_")
        assert len(fact.job_id) == 4 + 32
        assert (fact.ingress, fact.tenant, fact.model, fact.at_ms) == ("http", "default", "gpt-5", NOW_MS)
        assert (fact.session_id, fact.tags, fact.policy.retries_max) == ("s1", ("a",), 1)
        assert fact.request == InlineBody(value=SUBMIT["request"])
        assert await ingress.metric('backstop_jobs_submitted_total{ingress="http"}') == 1.0

    with_ingress(story)


def test_two_submissions_without_a_name_are_two_jobs() -> None:
    async def story(ingress: Ingress) -> None:
        first, second = [(await ingress.submit())[1]["job_id"] for _ in range(2)]
        assert first != second

    with_ingress(story)


def test_a_large_request_is_stored_before_the_fact_that_refers_to_it() -> None:
    async def story(ingress: Ingress) -> None:
        status, _, _ = await ingress.submit({"request": {"model": "gpt-5", "input": "x" * 100_000}})
        assert status == 202
        assert isinstance(submitted(ingress)[0].request, BlobBody)

    with_ingress(story)


def test_without_the_broker_a_submission_is_503_and_may_be_repeated() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.away = True
        status, document, response = await ingress.submit({**SUBMIT, "job_id": "j"})
        assert (status, document["code"]) == (503, "log_unavailable")
        assert response.headers["Retry-After"] == "2"
        assert (await ingress.call("POST", "/v1/jobs/j/cancel"))[0] == 503
        ingress.publisher.away = False
        assert (await ingress.submit({**SUBMIT, "job_id": "j"}))[0] == 202

    with_ingress(story)


class FullDisk:
    async def put(self, data: bytes) -> str:
        raise OSError(28, "No space left on device")

    async def get(self, sha256: str) -> bytes:
        raise AssertionError("not read here")


def test_without_room_for_the_body_a_submission_is_503() -> None:
    async def story(ingress: Ingress) -> None:
        assert (await ingress.submit({"request": {"model": "m", "input": "x" * 100_000}}))[0] == 503
        assert ingress.publisher.landed == []

    with_ingress(story, blobs=FullDisk())


REFUSED: dict[str, tuple[Any, int, str | None]] = {
    "not JSON": (b"{", 400, None),
    "empty": (b"", 400, None),
    "not UTF-8": (b'{"request":"\xff"}', 400, None),
    "too deep": (b'{"request":' + b"[" * 64 + b"]" * 64 + b"}", 400, None),
    "a list": (b"[]", 422, None),
    "no request": (b"{}", 422, "#/request"),
    "a typo": (b'{"request":{"model":"m"},"timeot_ms":1}', 422, "#/timeot_ms"),
    "no model": (b'{"request":{}}', 422, "#/request"),
    "store false": (b'{"request":{"model":"m","store":false}}', 422, "#/request"),
    "our metadata": (b'{"request":{"model":"m","metadata":{"backstop_job":"x"}}}', 422, "#/request"),
    "an id with a colon": (b'{"request":{"model":"m"},"job_id":"a:b"}', 422, "#/job_id"),
    "an id that is no segment of a path": (b'{"request":{"model":"m"},"job_id":".."}', 422, "#/job_id"),
    "a session that is none either": (b'{"request":{"model":"m"},"session_id":"."}', 422, "#/session_id"),
    "two deadlines": (b'{"request":{"model":"m"},"timeout_ms":5000,"deadline_at_ms":1}', 422, "#"),
    "too long": (b'{"request":{"model":"m"},"timeout_ms":604800001}', 422, "#/timeout_ms"),
    "a cancel": (b'{"request":{"model":"m"},"type":"cancel"}', 422, "#/type"),
    "a bad tag": (b'{"request":{"model":"m"},"tags":["ok",""]}', 422, "#/tags/1"),
    "a version to come": (b'{"request":{"model":"m"},"v":2}', 422, "#/v"),
    "a field named by a page": (orjson.dumps({**SUBMIT, "x" * 9_000: 1}), 422, ("#/" + "x" * 9_000)[:200]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_submission_is_a_problem_that_says_where(name: str) -> None:
    body, expected, pointer = REFUSED[name]

    async def story(ingress: Ingress) -> None:
        status, document, response = await ingress.call(
            "POST", "/v1/jobs", data=body, headers={"Content-Type": "application/json"}
        )
        assert status == expected
        assert response.content_type == "application/problem+json"
        assert {"type", "title", "status", "detail"} <= document.keys()
        assert document["status"] == expected
        assert [error["pointer"] for error in document.get("errors", [])] == ([pointer] if pointer else [])
        assert ingress.publisher.landed == []

    with_ingress(story)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", None]
)
def test_only_json_in_utf_8_is_read(content_type: str | None) -> None:
    async def story(ingress: Ingress) -> None:
        headers = {"Content-Type": content_type} if content_type else {}
        skipped = () if content_type else ("Content-Type",)
        status, _, _ = await ingress.call(
            "POST", "/v1/jobs", data=orjson.dumps(SUBMIT), headers=headers, skip_auto_headers=skipped
        )
        assert status == 415

    with_ingress(story)


def test_json_with_its_charset_is_json() -> None:
    async def story(ingress: Ingress) -> None:
        headers = {"Content-Type": "application/json; charset=UTF-8"}
        assert (await ingress.call("POST", "/v1/jobs", data=orjson.dumps(SUBMIT), headers=headers))[0] == 202

    with_ingress(story)


@pytest.mark.parametrize("over_bytes", [0, 1])
def test_a_submission_may_have_a_mebibyte(over_bytes: int) -> None:
    body = orjson.dumps({"request": {"model": "m", "input": ""}})
    body = body.replace(b'""', b'"' + b"x" * (REQUEST_BYTES_MAX + over_bytes - len(body)) + b'"')
    assert len(body) == REQUEST_BYTES_MAX + over_bytes

    async def story(ingress: Ingress) -> None:
        headers = {"Content-Type": "application/json"}
        assert (await ingress.call("POST", "/v1/jobs", data=io.BytesIO(body), headers=headers))[0] == (
            413 if over_bytes else 202
        )

    with_ingress(story)


@pytest.mark.parametrize("keys", [["a", "a"], [""], ["a b"], ["x" * 256], ["ä"]])
def test_an_idempotency_key_comes_once_and_is_plain(keys: list[str]) -> None:
    async def story(ingress: Ingress) -> None:
        headers = CIMultiDict(("Idempotency-Key", key) for key in keys)
        status, document, _ = await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=headers)
        assert (status, document["code"]) == (400, "bad_idempotency_key")

    with_ingress(story)


def test_submissions_at_one_time_are_bounded() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        asking = [asyncio.create_task(ingress.submit()) for _ in range(2)]
        await eventually(lambda: len(ingress.publisher.landed) == 2, 5, "both to be on their way")
        status, document, response = await ingress.submit()
        assert (status, document["code"]) == (503, "busy")
        assert "Retry-After" in response.headers
        ingress.publisher.release()
        assert [status for status, _, _ in await asyncio.gather(*asking)] == [202, 202]
        assert (await ingress.submit())[0] == 202

    with_ingress(story, limits=Limits(submissions_concurrent_max=3))


def test_bodies_in_memory_are_bounded_and_given_back() -> None:
    async def story(ingress: Ingress) -> None:
        slow_reader, slow = await asyncio.open_connection("127.0.0.1", ingress.port)
        half = b"x" * (REQUEST_BYTES_MAX // 2)
        slow.write(
            b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {REQUEST_BYTES_MAX}\r\n\r\n".encode()
            + half
        )
        await slow.drain()
        large = {"request": {"model": "m", "input": "x" * (REQUEST_BYTES_MAX - 1_000)}}

        async def refused() -> bool:
            return (await ingress.submit(large))[0] == 503

        await eventually(refused, 5, "the slow half to take its share")
        assert (await ingress.submit())[0] == 202
        slow.write(half)
        assert b" 400 " in await slow_reader.readline()
        slow.close()
        await slow.wait_closed()
        assert (await ingress.submit(large))[0] == 202

    with_ingress(story, limits=Limits(bodies_memory_bytes_max=6 * REQUEST_BYTES_MAX))


def test_a_cancel_is_a_fact_before_it_is_answered() -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", "/v1/jobs/mine-1/cancel", json={"reason": "changed my mind"})
        assert (status, document["status"], document["job_id"]) == (202, "cancel_requested", "mine-1")
        assert ingress.publisher.acked == [
            CancelRequested(
                id="mine-1/cancel", at_ms=NOW_MS, job_id="mine-1", tenant="default", ingress="http",
                reason="changed my mind",
            )
        ]  # fmt: skip
        assert (await ingress.call("POST", "/v1/jobs/mine-1/cancel"))[0] == 202

    with_ingress(story)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/jobs/a:b/cancel", {}, 404),
        ("/v1/jobs/%00/cancel", {}, 404),
        ("/v1/jobs/" + "x" * 101 + "/cancel", {}, 404),
        ("/v1/jobs/a/cancel", {"why": "x"}, 422),
        ("/v1/jobs/a/cancel", {"reason": "x" * 201}, 422),
        ("/v1/jobs/a/cancel", {"reason": "x" * 5_000}, 413),
        ("/v1/jobs/a/cancel", [], 422),
    ],
)
def test_a_cancel_that_is_none_is_a_problem(path: str, body: Any, expected: int) -> None:
    async def story(ingress: Ingress) -> None:
        status, document, _ = await ingress.call("POST", path, json=body)
        assert (status, document["status"]) == (expected, expected)
        assert ingress.publisher.landed == []

    with_ingress(story)


def test_reading_jobs_is_left_to_others_whose_refusals_are_problems_too() -> None:
    def add_routes(app: web.Application) -> None:
        async def show(request: web.Request) -> web.Response:
            if request.match_info["job_id"] == "none":
                raise web.HTTPNotFound
            return web.json_response({"read": request.match_info["job_id"]})

        app.router.add_get("/v1/jobs/{job_id}", show)

    async def story(ingress: Ingress) -> None:
        assert (await ingress.call("GET", "/v1/jobs/j"))[1] == {"read": "j"}
        assert (await ingress.call("GET", "/v1/jobs/none"))[1]["code"] == "not_found"
        assert (await ingress.call("GET", "/v1/jobs"))[0] == 405
        assert (await ingress.submit())[0] == 202

    with_ingress(story, add_routes=add_routes)


def test_the_failpoint_stands_between_the_record_and_the_answer() -> None:
    async def story(ingress: Ingress) -> None:
        failpoints.arm("receiver.job.acked=raise")
        assert (await ingress.submit({**SUBMIT, "job_id": "j"}))[0] == 500
        assert len(submitted(ingress)) == 1
        assert (await ingress.submit({**SUBMIT, "job_id": "j"}))[0] == 202

    try:
        with_ingress(story)
    finally:
        failpoints.arm("")


def test_what_is_not_http_is_a_problem_too() -> None:
    async def story(ingress: Ingress) -> None:
        answer = await raw_exchange(ingress.port, b"HELLO secret-bytes\r\n\r\n")
        assert b" 400 " in answer.splitlines()[0]
        assert b"application/problem+json" in answer
        assert b"secret-bytes" not in answer

    with_ingress(story)
