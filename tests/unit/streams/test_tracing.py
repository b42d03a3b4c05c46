"""One trace of a job: from a request's header through its facts to the provider, the result, a webhook and spans."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from backstop.outgoing.deliveries import planned
from backstop.runtime.kafka.headers import event_headers
from backstop.runtime.process import logs
from backstop.runtime.records import Record
from backstop.runtime.traces import traceparent_now, traceparent_of_record, within_trace
from schemas.base import Usage
from schemas.codec import encode
from schemas.commands import CreateResponse
from schemas.jobs import AttemptEnd, AttemptSettled
from schemas.results import JobResult
from schemas.traces import attempt_span_id, job_span_id, parse_traceparent, publish_span_id, trace_id_of
from streams import otel
from streams.fold.batch import JOB_FOLD, Folded, fold_batch
from streams.otel import SpanExport
from streams.spans import SCHEMA_URL, JobSpan, spans_of
from tests.support.otlp_sink import otlp_sink
from tests.unit.backstop.readmodel.logs import accepted, rejected, settled, submitted

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{CALLER}-01"
JOB, ATTEMPT, PUBLISH = (
    job_span_id("j", 1_000),
    attempt_span_id("j", 1_000, 1),
    publish_span_id("j", 1_000),
)


def folded(*facts: Any) -> Folded[Any]:
    records = [Record("jobs", 0, number, fact.at_ms, b"j", encode(fact)) for number, fact in enumerate(facts)]
    return fold_batch(JOB_FOLD, lambda _key: None, records)


def whole(traceparent: str | None = GIVEN) -> Folded[Any]:
    return folded(submitted(traceparent=traceparent), accepted(), settled())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GIVEN, GIVEN),
        (f" {GIVEN} ", GIVEN),
        (f"01-{TRACE}-{CALLER}-01-more", GIVEN),
        (f"{GIVEN}-more", None),
        (f"ff-{TRACE}-{CALLER}-01", None),
        (f"00-{'0' * 32}-{CALLER}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (GIVEN.upper().replace("00-", "00-", 1), None),
        ("", None),
        (GIVEN + "-" + "x" * 500, None),
    ],
)
def test_a_header_is_taken_by_the_letter_of_the_standard(text: str, found: str | None) -> None:
    assert parse_traceparent(text) == found


@examples(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    assert parse_traceparent(text) in (None, text.strip())


def test_a_record_with_two_headers_has_none() -> None:
    one = ("traceparent", GIVEN.encode())
    assert traceparent_of_record([("other", None), one]) == GIVEN
    assert traceparent_of_record([one, one]) is None
    assert traceparent_of_record([("traceparent", b"\xff")]) is None


def test_the_trace_goes_on_in_commands_results_and_webhooks() -> None:
    outputs = whole().outputs
    (command,) = (each for each in outputs if isinstance(each, CreateResponse))
    (result,) = (each for each in outputs if isinstance(each, JobResult))
    assert command.traceparent == f"00-{TRACE}-{ATTEMPT}-01"
    assert result.traceparent == GIVEN
    below_job = f"00-{TRACE}-{JOB}-01"
    assert dict(event_headers(result, "worker"))["traceparent"] == below_job.encode()
    assert dict(event_headers(command, "worker"))["traceparent"] == f"00-{TRACE}-{ATTEMPT}-01".encode()
    assert planned(result, "we_" + "0" * 32, 0).delivery.traceparent == below_job


def test_without_a_header_nothing_is_added() -> None:
    for output in whole(None).outputs:
        assert "traceparent" not in json.loads(encode(output))
        assert "traceparent" not in dict(event_headers(output, "worker"))


def test_a_job_has_a_span_for_itself_each_attempt_and_its_result() -> None:
    attempt, job, publish = spans_of(whole(), "b.results")
    assert {(each.trace_id) for each in (attempt, job, publish)} == {TRACE}
    assert [(each.span_id, each.parent_id) for each in (job, attempt, publish)] == [
        (JOB, CALLER), (ATTEMPT, JOB), (PUBLISH, JOB),
    ]  # fmt: skip
    assert [(each.name, each.kind, each.start_ms, each.end_ms) for each in (job, attempt, publish)] == [
        ("job", "internal", 1_000, 9_000), ("chat gpt-5", "client", 2_000, 9_000),
        ("send b.results", "producer", 9_000, 9_000),
    ]  # fmt: skip
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 7
    assert attempt.attributes["gen_ai.response.id"] == "resp_1"
    assert (attempt.error, job.error) == (None, None)


def test_a_failed_attempt_that_is_repeated_has_its_span_at_its_own_end() -> None:
    failed = settled().model_copy(
        update={"status": "failed", "code": "server_error", "cause": "faulty", "usage": Usage(), "response": None}
    )
    (attempt,) = spans_of(folded(submitted(traceparent=GIVEN), accepted(), failed), "b.results")
    assert (attempt.span_id, attempt.parent_id, attempt.error) == (ATTEMPT, JOB, "server_error")
    assert (attempt.start_ms, attempt.end_ms) == (2_000, 9_000)
    assert spans_of(folded(submitted(), rejected()), "b.results") == []


def spans_in_turn(*batches: tuple[Any, ...]) -> list[JobSpan]:
    """The spans of facts that are folded in so many batches."""
    rows: dict[bytes, bytes | None] = {}
    spans: list[JobSpan] = []
    offset = count()
    for batch in batches:
        records = [Record("jobs", 0, next(offset), fact.at_ms, b"j", encode(fact)) for fact in batch]
        after = fold_batch(JOB_FOLD, rows.get, records)
        rows |= after.rows
        spans += spans_of(after, "b.results")
    return spans


def given_up(status: str) -> AttemptSettled:
    return settled(at_ms=5_000).model_copy(
        update={"id": f"resp_1/{status}", "status": status, "cause": "faulty", "usage": None, "response": None}
    )


@pytest.mark.parametrize("status", ["missing", "stuck"])
@pytest.mark.parametrize("end", ["completed", "failed"])
def test_a_response_that_was_given_up_and_ends_later_has_one_span(status: str, end: str) -> None:
    began = (submitted(traceparent=GIVEN), accepted())
    late = settled().model_copy(update={"status": end})
    for batches in ((began, (given_up(status),), (late,)), (began, (given_up(status), late))):
        (attempt,) = (each for each in spans_in_turn(*batches) if each.span_id == ATTEMPT)
        assert (attempt.end_ms, attempt.attributes["gen_ai.response.finish_reasons"]) == (9_000, (end,))


def test_a_response_that_was_given_up_has_a_span_where_that_ends_the_job() -> None:
    policy = submitted(traceparent=GIVEN)
    last = policy.model_copy(update={"policy": policy.policy.model_copy(update={"retries_max": 0})})
    (attempt, *_) = spans_in_turn((last, accepted()), (given_up("missing"),))
    assert (attempt.span_id, attempt.error) == (ATTEMPT, "missing")


def test_a_second_response_of_an_attempt_has_no_span() -> None:
    second = settled(at_ms=6_000, response_id="resp_2")
    at_once = accepted(at_ms=6_500, response_id="resp_3").model_copy(
        update={"end": AttemptEnd(status="completed", response=second.response, usage=second.usage)}
    )
    for batches in (((second,), (at_once,), (settled(),)), ((second, at_once, settled()),)):
        spans = spans_in_turn((submitted(traceparent=GIVEN), accepted()), *batches)
        (attempt,) = (each for each in spans if each.span_id == ATTEMPT)
        assert attempt.attributes["gen_ai.response.id"] == "resp_1"


def test_a_caller_that_samples_nothing_gets_no_spans_and_a_job_without_one_its_own_trace() -> None:
    assert spans_of(whole(GIVEN[:-1] + "0"), "b.results") == []
    alone = spans_of(whole(None), "b.results")
    assert {each.trace_id for each in alone} == {trace_id_of(None, "j")}
    assert [each.parent_id for each in alone] == [JOB, None, JOB]


def test_a_redelivered_batch_makes_no_span_again() -> None:
    first = whole()
    facts = (submitted(traceparent=GIVEN), accepted(), settled())
    again = [Record("jobs", 0, number, fact.at_ms, b"j", encode(fact)) for number, fact in enumerate(facts)]
    assert spans_of(fold_batch(JOB_FOLD, lambda key: first.rows[key], again), "b.results") == []


def test_log_lines_within_a_trace_name_it() -> None:
    out = io.StringIO()
    logs.configure("json", stream=out)
    with within_trace(GIVEN):
        logs.get_logger("x").info("within")
    logs.get_logger("x").info("after")
    within, after = (json.loads(line) for line in out.getvalue().splitlines())
    assert (within["trace_id"], "trace_id" in after, traceparent_now()) == (TRACE, False, None)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    with otlp_sink() as sink:
        yield sink


def test_a_collector_gets_the_spans(collector: tuple[str, list[ExportTraceServiceRequest]]) -> None:
    url, taken = collector
    export = SpanExport(url, "b.results")
    export.taken(0, whole())
    export.close()
    (scope,) = [each for sent in taken for resource in sent.resource_spans for each in resource.scope_spans]
    assert scope.schema_url == SCHEMA_URL
    spans = {span.name: span for span in scope.spans}
    assert sorted(spans) == ["chat gpt-5", "job", "send b.results"]
    job, attempt = spans["job"], spans["chat gpt-5"]
    assert (job.trace_id.hex(), job.span_id.hex(), job.parent_span_id.hex()) == (TRACE, JOB, CALLER)
    assert attempt.parent_span_id == job.span_id
    assert (attempt.start_time_unix_nano, attempt.end_time_unix_nano) == (2_000_000_000, 9_000_000_000)
    told = {each.key for span in spans.values() for each in span.attributes}
    assert {"gen_ai.request.model", "gen_ai.usage.input_tokens", "messaging.destination.name"} <= told
    assert "canary" not in str(taken), "no prompt is in a span"


def test_a_collector_that_does_not_answer_holds_up_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "CLOSE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        export = SpanExport(f"http://127.0.0.1:{silent.getsockname()[1]}", "b.results")
        export.taken(0, whole())
        closing = threading.Thread(target=export.close, daemon=True)
        closing.start()
        closing.join(5)
        assert not closing.is_alive()
