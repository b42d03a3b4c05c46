"""Partial output of `/v1/jobs` and `/v1/responses`, by plain HTTP and the official SDK: live, resumed, truncated, and
without listeners.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from receiver.app import LIVE
from receiver.limits import Limits
from receiver.lookups import ReadsAwayError
from receiver.partial_output.listeners import TooManyListenersError
from receiver.responses_api.streamed import BEYOND_ALL
from schemas.partials import PartialOutput
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import NOW_MS, Ingress, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads
from tests.unit.receiver.sdk_caller import ASKED, provided, result_of, sdk, submitted

QUICK = Limits(appear_s=0.1, stream_tail_s=0.3, stream_covered_s=0.1, stream_heartbeat_s=0.2)
TEXTS = ("Hi", ".")
PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}


def events() -> list[dict[str, Any]]:
    """The provider's events for `sdk_caller.provided()`, without the terminal one (number 9)."""
    item = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    whole = provided()["output"][0]
    told: list[dict[str, Any]] = [
        {"type": "response.created"},
        {"type": "response.in_progress"},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **PLACE, "part": part},
        *({"type": "response.output_text.delta", **PLACE, "delta": text, "logprobs": [], "obfuscation": "xy"}
          for text in TEXTS),
        {"type": "response.output_text.done", **PLACE, "text": "Hi.", "logprobs": []},
        {"type": "response.content_part.done", **PLACE, "part": part | {"text": "Hi."}},
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
    ]  # fmt: skip
    return [event | {"sequence_number": number} for number, event in enumerate(told)]


class Stage:
    """A receiver that streams, its read model, and the provider's events."""

    def __init__(self, ingress: Ingress, reads: MemoryReads, changes: MemoryChanges, client: AsyncOpenAI) -> None:
        self.ingress = ingress
        self.reads = reads
        self.changes = changes
        self.client = client
        ingress.app[LIVE].caught_up = True

    def tell(self, job_id: str, start: int, end: int, attempt: int = 1, **changed: Any) -> None:
        """Publish the events from `start` to before `end`; the one at 9 is the terminal one."""
        told = {
            "id": "p", "at_ms": NOW_MS, "job_id": job_id, "tenant": "default", "attempt": attempt,
            "response_id": f"resp_provider_{attempt}", "after": start - 1, "events": tuple(events()[start:end]),
            "end_number": 9 if end > 9 else None,
        }  # fmt: skip
        self.ingress.app[LIVE].take(PartialOutput(**{**told, **changed}))

    def runs(self, job_id: str) -> None:
        self.reads.add("default", job_id, status="running")

    def ends(self, job_id: str, outcome: str = "completed", finished_at_ms: int = NOW_MS) -> None:
        result = result_of(outcome, provided() if outcome == "completed" else None)
        timings = result.timings.model_copy(update={"finished_at_ms": finished_at_ms})
        result = result.model_copy(update={"timings": timings})
        self.reads.add("default", job_id, status=outcome, result=result, submitted_at_ms=NOW_MS)
        self.changes.touch(job_id)

    async def created(self, **changed: Any) -> tuple[str, Any]:
        """The id, and the stream after its first event."""
        stream = await self.client.responses.create(**{**ASKED, "stream": True, **changed})
        first = await anext(aiter(stream))
        assert (first.type, first.sequence_number, first.response.status) == ("response.created", 0, "queued")
        return first.response.id, stream


def on_stage(story: Callable[[Stage], Awaitable[None]], limits: Limits = QUICK) -> None:
    reads, changes = MemoryReads(), MemoryChanges()

    async def run(ingress: Ingress) -> None:
        async with sdk(ingress) as client:
            await story(Stage(ingress, reads, changes, client))
            await eventually(lambda: changes.watchers == 0, what="all listeners to be gone")

    with_ingress(run, reads=reads, changes=changes, limits=limits)


async def rest_of(stream: Any) -> list[Any]:
    return [event async for event in stream]


def numbers(found: list[Any]) -> list[int]:
    return [event.sequence_number for event in found]


def test_a_create_streams_as_it_comes_under_our_id_and_ends_with_the_result() -> None:
    async def story(s: Stage) -> None:
        response_id, stream = await s.created(metadata={"mine": "kept"})
        (fact,) = submitted(s.ingress)
        assert fact.request.value["stream"] is True  # type: ignore[union-attr, index, call-overload]
        s.tell(response_id, 0, 5)
        first = [await anext(aiter(stream)) for _ in range(4)]
        assert numbers(first) == [1, 2, 3, 4]
        assert (first[0].response.id, first[0].response.status) == (response_id, "in_progress")
        assert (first[0].response.metadata, first[3].delta) == ({"mine": "kept"}, "Hi")
        s.ends(response_id)
        s.tell(response_id, 5, 10)
        last = await rest_of(stream)
        assert numbers(last) == [5, 6, 7, 8, 9], "what was on its way when the end was known still came"
        assert (last[-1].type, last[-1].response.id) == ("response.completed", response_id)
        assert last[-1].response == await s.client.responses.retrieve(response_id)

    on_stage(story)


def test_the_sdks_own_helper_takes_it() -> None:
    async def story(s: Stage) -> None:
        async with s.client.responses.stream(model="gpt-5.2", input="Say hello.", background=True) as stream:
            texts = []
            async for event in stream:
                if event.type == "response.created":
                    s.tell(event.response.id, 0, 10)
                    s.ends(event.response.id)
                if event.type == "response.output_text.delta":
                    texts.append(event.delta)
            assert tuple(texts) == TEXTS
            assert (await stream.get_final_response()).output_text == "Hi."

    on_stage(story)


def test_a_stream_goes_on_behind_a_number() -> None:
    async def story(s: Stage) -> None:
        response_id, stream = await s.created()
        s.tell(response_id, 0, 5)
        await stream.close()
        again = await s.client.responses.retrieve(response_id, stream=True, starting_after=3)
        assert (await anext(aiter(again))).sequence_number == 4
        s.tell(response_id, 5, 10)
        s.ends(response_id)
        assert numbers(await rest_of(again)) == [5, 6, 7, 8, 9]
        for after, expected in ((8, [9]), (9, []), (0, list(range(1, 10)))):
            found = await rest_of(await s.client.responses.retrieve(response_id, stream=True, starting_after=after))
            assert numbers(found) == expected
        whole = await rest_of(await s.client.responses.retrieve(response_id, stream=True))
        assert numbers(whole) == list(range(10))

    on_stage(story)


def test_without_any_partial_output_there_is_still_the_end() -> None:
    async def story(s: Stage) -> None:
        response_id, stream = await s.created()
        s.ends(response_id)
        (last,) = await rest_of(stream)
        assert (last.type, last.sequence_number, last.response.output_text) == ("response.completed", BEYOND_ALL, "Hi.")
        s.ends(response_id, finished_at_ms=NOW_MS - 60_000)
        async with asyncio.timeout(0.2):  # nothing is waited for
            late = await rest_of(await s.client.responses.retrieve(response_id, stream=True))
        assert [(e.type, e.sequence_number) for e in late] == [("response.created", 0), (last.type, BEYOND_ALL)]
        with pytest.raises(openai.BadRequestError, match="no longer stored") as refused:
            await s.client.responses.retrieve(response_id, stream=True, starting_after=3)
        assert refused.value.param == "starting_after"

    on_stage(story)


@pytest.mark.parametrize("outcome", ["failed", "incomplete", "cancelled", "expired", "rejected"])
def test_every_end_has_its_event(outcome: str) -> None:
    async def story(s: Stage) -> None:
        response_id, stream = await s.created()
        s.ends(response_id, outcome)
        (last,) = [event async for event in stream]
        status = {"expired": "failed", "rejected": "failed"}.get(outcome, outcome)
        assert last.type == f"response.{status}"
        assert dict(last.response)["status"] == status

    # The SDK has no class for a cancelled response's event; it takes it all the same, where it is not strict.
    async def lenient(s: Stage) -> None:
        async with sdk(s.ingress, _strict_response_validation=False) as s.client:
            await story(s)

    on_stage(lenient)


def test_behind_a_hole_comes_nothing_but_the_end() -> None:
    async def story(s: Stage) -> None:
        response_id, stream = await s.created()
        s.tell(response_id, 0, 3)
        s.tell(response_id, 5, 10)
        s.ends(response_id)
        found = await rest_of(stream)
        assert [event.type for event in found if event.type.endswith("delta")] == []
        assert found[-1].response.output_text == "Hi."

    on_stage(story)


def test_a_second_attempt_is_not_mixed_into_the_first() -> None:
    async def story(s: Stage) -> None:
        response_id, stream = await s.created()
        s.tell(response_id, 0, 5)
        s.tell(response_id, 0, 10, attempt=2)
        s.ends(response_id)
        found = await rest_of(stream)
        assert numbers(found) == [1, 2, 3, 4, 5]
        assert (found[-1].type, found[-1].response.output_text) == ("response.completed", "Hi.")

    on_stage(story)


def test_the_padding_goes_where_it_is_not_wanted_and_the_providers_id_always() -> None:
    async def story(s: Stage) -> None:
        options = {"include_obfuscation": False}
        response_id, stream = await s.created(stream_options=options)
        named = {"type": "response.odd", "sequence_number": 2, "response_id": "resp_provider_1", "obfuscation": "z"}
        s.tell(response_id, 0, 2)
        s.tell(response_id, 2, 2, events=(named,))
        s.ends(response_id)
        path = f"/v1/responses/{response_id}?stream=true"
        padded = await read_events(s.ingress, path)
        bare = await read_events(s.ingress, f"{path}&include_obfuscation=false")
        odd = {**named, "response_id": response_id}
        assert padded[2][1] == odd
        assert bare[2][1] == {name: value for name, value in odd.items() if name != "obfuscation"}
        await stream.close()

    on_stage(story)


def test_what_was_not_created_as_a_stream_is_refused_and_reads_go_on() -> None:
    async def story(s: Stage) -> None:
        plain = await s.client.responses.create(**ASKED)
        with pytest.raises(openai.BadRequestError, match="not created with stream=true"):
            await s.client.responses.retrieve(plain.id, stream=True)
        with pytest.raises(openai.NotFoundError):
            await s.client.responses.retrieve("resp_unknown", stream=True)
        for query in ("starting_after=1", "stream=true&starting_after=-1", "stream=yes"):
            status, document, _ = await s.ingress.call("GET", f"/v1/responses/{plain.id}?{query}")
            assert (status, document["error"]["type"]) == (400, "invalid_request_error")

    on_stage(story)


def test_a_client_that_disconnects_cancels_nothing_and_its_repeat_gets_the_stream() -> None:
    async def story(s: Stage) -> None:
        key = {"Idempotency-Key": "order-17"}
        response_id, stream = await s.created(extra_headers=key)
        await stream.close()
        again = await s.client.responses.with_raw_response.create(**ASKED, stream=True, extra_headers=key)
        assert again.headers["backstop-repeated"] == "true"
        s.tell(response_id, 0, 10)
        s.ends(response_id)
        assert numbers(await rest_of(again.parse())) == list(range(10))
        assert len(submitted(s.ingress)) == 1

    on_stage(story)


def test_a_process_that_has_just_started_answers_503_and_not_that_the_events_are_gone() -> None:
    async def story(s: Stage) -> None:
        response_id, stream = await s.created()
        await stream.close()
        s.ingress.app[LIVE].caught_up = False
        with pytest.raises(openai.InternalServerError) as refused:
            await s.client.responses.retrieve(response_id, stream=True, starting_after=3)
        assert (refused.value.status_code, refused.value.code) == (503, "streams_unavailable")

    on_stage(story)


def test_too_many_listeners_and_a_read_model_that_is_away_are_503() -> None:
    async def story(s: Stage) -> None:
        for error, code in (
            (TooManyListenersError("9"), "too_many_streams"),
            (ReadsAwayError("x"), "reads_unavailable"),
        ):
            s.changes.error = error
            with pytest.raises(openai.InternalServerError) as refused:
                await s.client.responses.create(**ASKED, stream=True)
            assert (refused.value.status_code, refused.value.code) == (503, code)

    on_stage(story)


def test_a_process_that_stops_lets_its_listeners_go() -> None:
    async def story(s: Stage) -> None:
        _, stream = await s.created()
        s.ingress.stop.set()
        assert await rest_of(stream) == []

    on_stage(story)


def test_a_listener_that_takes_nothing_is_let_go() -> None:
    async def story(s: Stage) -> None:
        s.runs("job_1")
        reader, writer = await asyncio.open_connection("127.0.0.1", s.ingress.port, limit=1)
        writer.write(b"GET /v1/jobs/job_1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: s.changes.watchers == 1)
        text = "x" * 100_000
        for number in range(100):
            event = {"type": "response.output_text.delta", "sequence_number": number, "delta": text}
            s.tell("job_1", number, 0, events=(event,), after=number - 1)
        await eventually(lambda: s.changes.watchers == 0, what="the slow listener to be let go")
        assert await s.ingress.metric('backstop_output_listeners_left_total{reason="slow"}') == 1
        writer.close()
        del reader

    on_stage(story, Limits(stream_write_s=0.2, appear_s=0.1))


async def read_events(
    ingress: Ingress, path: str, headers: dict[str, str] | None = None
) -> list[tuple[str | None, Any]]:
    """All events of a stream until its end, each as (id and kind, data)."""
    async with ingress.session.get(f"{ingress.url}{path}", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        found: list[tuple[str | None, Any]] = []
        for block in (await answer.text()).split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in fields:
                found.append((f"{fields.get('id', '')} {fields['event']}".strip(), json.loads(fields["data"])))
        return found


def test_a_jobs_stream_has_its_partials_its_gaps_and_its_result() -> None:
    async def story(s: Stage) -> None:
        s.tell("job_1", 3, 5)
        s.tell("job_1", 0, 2, attempt=2)
        s.tell("job_1", 2, 2, attempt=2, truncated="response_too_large")
        s.ends("job_1")
        found = await read_events(s.ingress, "/v1/jobs/job_1/stream")
        assert [kind for kind, _ in found] == [
            "1-2 gap", "1-3 partial", "1-4 partial", "2-0 partial", "2-1 partial", "2-1 gap", "end result"
        ]  # fmt: skip
        assert found[0][1] == {"attempt": 1, "reason": "not_kept", "after": -1, "before": 3}
        assert found[1][1] == {"attempt": 1, "event": events()[3]}
        assert found[5][1] == {"attempt": 2, "reason": "response_too_large", "after": 1}
        last = found[-1][1]
        assert (last["job_id"], last["result"]["outcome"]) == ("job_1", "completed")
        assert last["links"] == {"self": "/v1/jobs/job_1", "output": "/v1/jobs/job_1/output"}

    on_stage(story)


def test_a_jobs_stream_goes_on_behind_an_event() -> None:
    async def story(s: Stage) -> None:
        s.tell("job_1", 0, 4)
        s.tell("job_1", 0, 10, attempt=2)
        s.ends("job_1")
        path = "/v1/jobs/job_1/stream"
        for headers, query in (({"Last-Event-ID": "2-7"}, ""), ({}, "?starting_after=2-7"), ({}, "?last_event_id=2-7")):
            found = await read_events(s.ingress, path + query, headers)
            assert [kind for kind, _ in found] == ["2-8 partial", "end result"]
        found = await read_events(s.ingress, f"{path}?starting_after=1-2")
        assert [kind for kind, _ in found][:2] == ["1-3 partial", "2-0 partial"]
        status, _, _ = await s.ingress.call("GET", path, headers={"Last-Event-ID": "end"})
        assert status == 204
        status, document, _ = await s.ingress.call("GET", f"{path}?starting_after=7")
        assert (status, document["code"]) == (400, "bad_parameter")

    on_stage(story)


def test_a_jobs_stream_is_there_right_after_its_submission_and_nowhere_for_others() -> None:
    async def story(s: Stage) -> None:
        body = {"job_id": "job_1", "request": {"model": "m", "input": "x", "stream": True}}
        assert (await s.ingress.submit(body))[0] == 202
        async with s.ingress.session.get(f"{s.ingress.url}/v1/jobs/job_1/stream") as answer:
            assert answer.status == 200
            s.tell("job_1", 0, 1, tenant="globex")
            s.tell("job_2", 0, 1)
            s.ends("job_1")
            text = await answer.text()
        assert "partial" not in text
        assert "event: result" in text
        for named, code in (("job_3", "job_not_found"), ("globex:job_1", "not_found"), ("%00", "not_found")):
            status, document, _ = await s.ingress.call("GET", f"/v1/jobs/{named}/stream")
            assert (status, document["code"]) == (404, code)

    on_stage(story)


def test_a_silent_stream_shows_that_it_lives() -> None:
    async def story(s: Stage) -> None:
        s.runs("job_1")
        async with s.ingress.session.get(f"{s.ingress.url}/v1/jobs/job_1/stream") as answer:
            assert await answer.content.readline() == b": still here\n"

    on_stage(story)
