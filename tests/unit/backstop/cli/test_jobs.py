"""`backstop jobs` at a small API that answers as the receiver does: requests sent, output printed, exit codes."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from backstop.cli import following, partials
from backstop.cli.main import app


class Api:
    """Keeps the requests. Each read of a job returns the next one of `versions`."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.queries: list[dict[str, str]] = []
        self.versions: list[dict[str, Any]] = []
        self.streams: list[list[str]] = []
        """For each time that the stream is opened, what it says before it breaks."""
        self.behind: list[str | None] = []
        self.url = ""

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/jobs", self.submit)
        app.router.add_post("/v1/jobs/adopt", self.adopt)
        app.router.add_get("/v1/jobs", self.list)
        app.router.add_get("/v1/jobs/{job_id}", self.show)
        app.router.add_get("/v1/jobs/{job_id}/stream", self.stream)
        return app

    async def stream(self, request: web.Request) -> web.StreamResponse:
        self.behind.append(request.headers.get("Last-Event-ID"))
        if not self.streams:
            return web.json_response({"code": "job_not_found", "detail": "There is no such job."}, status=404)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for text in self.streams.pop(0):
            await response.write(text.encode())
        return response

    async def submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.submitted.append(body)
        if body["request"]["model"] == "nosuch":
            document = {"title": "Unprocessable", "code": "bad_request", "detail": "The body is not a valid request.",
                        "errors": [{"pointer": "#/request/model", "detail": "is unknown"}]}  # fmt: skip
            return web.json_response(document, status=422, content_type="application/problem+json")
        return web.json_response({"job_id": body.get("job_id", "drawn"), "status": "accepted"}, status=202)

    async def adopt(self, request: web.Request) -> web.Response:
        self.submitted.append(await request.json())
        return web.json_response({"job_id": "adopted_1", "status": "accepted"}, status=202)

    async def show(self, _request: web.Request) -> web.Response:
        if not self.versions:
            return web.json_response({"code": "not_found", "detail": "There is no such job."}, status=404)
        job = self.versions[0] if len(self.versions) == 1 else self.versions.pop(0)
        return web.json_response(job)

    async def list(self, request: web.Request) -> web.Response:
        self.queries.append(dict(request.query))
        page: dict[str, Any] = {"data": [{"job_id": f"j{len(self.queries)}", "status": "running"}]}
        if len(self.queries) < 3:
            page["next_cursor"] = f"c{len(self.queries)}"
        return web.json_response(page)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    served = Api()
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(served.app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    monkeypatch.setenv("BACKSTOP_URL", served.url)
    try:
        yield served
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["jobs", *arguments], input=stdin)


def test_submit_prints_the_id_alone(api: Api) -> None:
    done = run("submit", "-m", "gpt-5.2", "-i", "Hi.", "--tag", "a", "--timeout-s", "2.5", "--retries-max", "0")
    assert (done.exit_code, done.stdout) == (0, "drawn\n")
    assert api.submitted == [
        {"request": {"model": "gpt-5.2", "input": "Hi."}, "tags": ["a"], "timeout_ms": 2_500, "retries_max": 0}
    ]


def test_submit_takes_a_bare_request_or_a_whole_submission(api: Api, tmp_path: Path) -> None:
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps({"job_id": "mine", "request": {"model": "m", "input": "x"}}))
    assert run("submit", str(whole)).stdout == "mine\n"
    assert run("submit", "-", "--job-id", "other", stdin='{"model": "m", "input": "y"}').stdout == "other\n"
    assert api.submitted[1] == {"job_id": "other", "request": {"model": "m", "input": "y"}}


def test_a_refusal_of_input_names_the_fields_and_exits_2(api: Api) -> None:
    done = run("submit", "-m", "nosuch", "-i", "x")
    assert done.exit_code == 2
    assert done.stderr == "backstop: The body is not a valid request.\n  #/request/model: is unknown\n"


@pytest.mark.parametrize("arguments", [(), ("-m", "x"), ("file.json", "-m", "x"), ("nosuch.json",)])
def test_an_invalid_submission_exits_2_and_sends_nothing(api: Api, arguments: tuple[str, ...]) -> None:
    assert run("submit", *arguments).exit_code == 2
    assert api.submitted == []


def test_follow_tells_each_change_once_and_exits_0_when_completed(api: Api) -> None:
    running = {"job_id": "j", "status": "running", "version": 1, "updated_at_ms": 0}
    done_job = {"job_id": "j", "status": "completed", "version": 2, "updated_at_ms": 0, "terminal": True}
    api.versions = [running, running, done_job]
    done = run("follow", "j", "-o", "jsonl")
    assert done.exit_code == 0
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["running", "completed"]


def test_a_job_that_did_not_complete_exits_1(api: Api) -> None:
    api.versions = [{"job_id": "j", "status": "expired", "version": 1, "updated_at_ms": 0, "terminal": True}]
    done = run("submit", "-m", "m", "-i", "x", "--wait", "-q")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == ["job:         j", "status:      expired"]
    assert done.stderr == ""


def test_following_a_job_that_does_not_exist_ends_and_exits_1(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "APPEARS_WITHIN_S", 0.1)
    done = run("follow", "nosuch")
    assert (done.exit_code, done.stderr) == (1, "backstop: no job nosuch\n")
    assert api.versions == []


def test_list_goes_on_to_further_pages_up_to_the_limit(api: Api) -> None:
    done = run("list", "--state", "running", "--state", "unknown", "--limit", "3", "-o", "json")
    assert [job["job_id"] for job in json.loads(done.stdout)] == ["j1", "j2", "j3"]
    assert api.queries[0] == {"status": "running,unknown", "limit": "3"}
    assert api.queries[1] == {"status": "running,unknown", "limit": "2", "cursor": "c1"}


def test_no_api_exits_2_and_says_how_to_start_one() -> None:
    done = run("list", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 2
    assert "Start it with `backstop dev`" in done.stderr


def event(event_id: str, kind: str, data: Any) -> str:
    return f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def delta(attempt: int, number: int, text: str) -> str:
    told = {"type": "response.output_text.delta", "sequence_number": number, "delta": text}
    return event(f"{attempt}-{number}", "partial", {"attempt": attempt, "event": told})


def result(outcome: str) -> str:
    return event("end", "result", {"job_id": "j1", "result": {"outcome": outcome}})


def test_stream_prints_the_text_as_it_comes_and_goes_on_where_it_broke(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "OPEN_AGAIN_S", 0.01)
    api.streams = [[": here\n\n", delta(1, 4, "Hel"), delta(1, 5, "lo")[:20]], [delta(1, 5, "lo"), result("completed")]]
    done = run("stream", "j1")
    assert (done.exit_code, done.stdout) == (0, "Hello\n")
    assert api.behind == [None, "1-4"]
    assert "j1: completed" in done.stderr


def test_stream_says_what_is_missing_and_what_begins_anew_and_how_it_ended(api: Api) -> None:
    gap = event("2-6", "gap", {"attempt": 2, "reason": "event_too_large", "after": 6})
    api.streams = [[delta(1, 4, "no"), delta(2, 4, "yes"), gap, result("failed")]]
    done = run("stream", "j1")
    assert (done.exit_code, done.stdout) == (1, "noyes\n")
    assert "attempt 2 starts from the beginning" in done.stderr
    assert "output is missing here: event_too_large" in done.stderr


def test_stream_as_lines_of_json_has_every_event(api: Api) -> None:
    api.streams = [[delta(1, 4, "Hi"), result("completed")]]
    done = run("stream", "j1", "-o", "jsonl")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["partial", "result"]
    assert (done.exit_code, lines[0]["event"]["delta"]) == (0, "Hi")


def test_a_submission_that_streams_says_so(api: Api) -> None:
    api.streams = [[delta(1, 4, "Hi"), result("completed")]]
    done = run("submit", "-m", "gpt-5.2", "-i", "Hello", "--stream")
    assert (done.exit_code, done.stdout) == (0, "Hi\n")
    assert api.submitted[0]["request"] == {"model": "gpt-5.2", "input": "Hello", "stream": True}


def test_a_job_that_is_not_there_has_no_stream(api: Api) -> None:
    done = run("stream", "nosuch")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no job nosuch" in done.stderr


def test_adopt_names_the_response_and_prints_the_jobs_id_alone(api: Api) -> None:
    done = run("adopt", "resp_1", "--tag", "old", "--timeout-s", "2.5")
    assert (done.exit_code, done.stdout) == (0, "adopted_1\n")
    assert api.submitted == [{"response_id": "resp_1", "tags": ["old"], "timeout_ms": 2500}]
