"""Each row of what an answer of OpenAI may be, and what it means."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.jobs import AttemptAccepted
from streams.policy.answers import (
    Accepted,
    Answer,
    AskAgain,
    Fault,
    Missing,
    NotCancelled,
    Refused,
    Rejected,
    Unknown,
    read_cancel,
    read_create,
    read_look,
)
from streams.policy.observations import NEVER_CODES, RESET_CODES, SOON_CODES, Owner, Seen, Tokens, owner_of
from streams.policy.waits import WAIT_MS_MAX, go_duration_ms, limit_reset_ms, poll_after_ms, retry_after_ms
from tests.unit.workers.misbehaving import RESPONSE_ID, completed, response

NOW_MS = 1_795_341_600_000


def error(status: int, code: str | None = None, kind: str | None = None, message: str = "", **headers: str) -> Answer:
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


HTML_403, HTML_429, HTML_502 = (Answer(status) for status in (403, 429, 502))


@pytest.mark.parametrize(
    ("answer", "blame", "code", "alarm"),
    [
        (
            error(429, "rate_limit_exceeded", "requests", "Rate limit reached for gpt"),
            "reset",
            "rate_limit_exceeded",
            0,
        ),
        (error(429, "rate_limit_exceeded", "tokens", "Rate limit reached for gpt"), "reset", "rate_limit_exceeded", 0),
        (error(429, "rate_limit_exceeded", "tokens", "Request too large for"), "never", "rate_limit_exceeded", 0),
        (error(429, "rate_limit_exceeded", "tokens", "Limit 3. Request too large"), "reset", "rate_limit_exceeded", 0),
        (error(429, "slow_down", "rate_limit_error"), "reset", "slow_down", 0),
        (error(429, "insufficient_quota", "insufficient_quota"), "never", "insufficient_quota", 1),
        (error(429, None, "insufficient_quota"), "never", "insufficient_quota", 1),
        (error(429, "credit_balance_exhausted", "insufficient_quota"), "never", "credit_balance_exhausted", 1),
        (error(429, "project_spend_limit_exceeded"), "never", "project_spend_limit_exceeded", 1),
        (error(429, "organization_usage_limit_exceeded"), "never", "organization_usage_limit_exceeded", 1),
        (error(429, "organization_spend_limit_exceeded"), "never", "organization_spend_limit_exceeded", 1),
        (error(429, None, None), "reset", "http_429", 0),
        (error(429, "resource_unavailable"), "reset", "resource_unavailable", 0),
        (Answer(429, {}, None), "reset", "http_429", 0),
        (HTML_429, "reset", "edge_block", 0),
        (HTML_403, "reset", "edge_block", 0),
        (error(503, "server_is_overloaded", "service_unavailable_error"), "soon", "server_is_overloaded", 0),
        (error(400, "invalid_value", "invalid_request_error"), "never", "invalid_value", 0),
        (error(404, "model_not_found"), "never", "model_not_found", 0),
        (error(413), "never", "http_413", 0),
        (error(422), "never", "http_422", 0),
        (Answer(400), "never", "http_400", 0),
        (error(401, "invalid_api_key"), "never", "invalid_api_key", 1),
        (Answer(401), "never", "http_401", 1),
        (error(403, "unsupported_country"), "never", "unsupported_country", 1),
        (Answer(301), "never", "http_301", 1),
        (Answer(307), "never", "http_307", 1),
        (error(402, "billing_hard_limit"), "never", "billing_hard_limit", 1),
    ],
)
def test_a_refused_create_says_who_must_act(answer: Answer, blame: str, code: str, alarm: int) -> None:
    verdict = read_create(answer, NOW_MS)
    assert isinstance(verdict, Rejected)
    assert (verdict.blame, verdict.code, verdict.alarm, verdict.http_status) == (
        blame,
        code,
        bool(alarm),
        answer.status,
    )
    assert verdict.limited == (code == "edge_block")


@pytest.mark.parametrize("status", [408, 409, 425, 499, 500, 502, 503, 504, 520, 599, 100, 0, 999])
def test_an_answer_that_does_not_say_whether_it_was_taken_is_unknown(status: int) -> None:
    assert read_create(error(status, "whatever"), NOW_MS) == Unknown(f"http_{status}")


def test_only_the_documented_503_is_a_refusal() -> None:
    assert isinstance(read_create(error(503, None, "service_unavailable_error"), NOW_MS), Unknown)


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("state", ["queued", "in_progress", "completed", "failed", "incomplete", "cancelled", "new"])
def test_a_create_is_accepted_by_its_id_whatever_its_status(status: int, state: str) -> None:
    body = {"id": "resp_1", "object": "response", "status": state}
    assert read_create(Answer(status, {"x-request-id": "req_1"}, body), 0) == Accepted("resp_1", state, "req_1")


def test_a_create_is_accepted_however_odd_the_rest() -> None:
    body = {"id": "resp_1", "object": "response", "status": [], "output": "x", "error": {"code": "server_error"}}
    assert read_create(Answer(200, {}, body), 0) == Accepted("resp_1", "unknown", None)


@pytest.mark.parametrize("bad", [None, "", 7, "a b", "x" * 201, "../x", "resp_é", [], {}])
def test_a_create_without_a_usable_id_is_unknown(bad: Any) -> None:
    assert read_create(Answer(200, {}, {"id": bad, "object": "response"}), 0) == Unknown("no_usable_id")


@pytest.mark.parametrize("body", [{}, None, [], [1], "x", 1, {"id": "resp_1"}, {"id": "resp_1", "object": "error"}])
def test_a_create_without_a_response_is_unknown(body: Any) -> None:
    assert read_create(Answer(200, {}, body), 0) == Unknown("no_response_object")


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (Fault("never_sent", "ConnectError"), Rejected("soon", "never_sent", "ConnectError")),
        (Fault("lost", "ReadError"), Unknown("lost: ReadError")),
        (Fault("timeout"), Unknown("timeout")),
        (Fault("unexpected", "KeyError"), Unknown("unexpected: KeyError")),
    ],
)
def test_only_a_fault_before_the_connection_is_a_refusal(fault: Fault, verdict: Rejected | Unknown) -> None:
    assert read_create(fault, 0) == verdict


def test_a_key_in_a_message_is_not_kept() -> None:
    verdict = read_create(error(401, "invalid_api_key", None, "Incorrect API key: sk-proj-abc_DEF-123. See"), 0)
    assert isinstance(verdict, Rejected)
    assert verdict.message == "Incorrect API key: sk-…. See"


def test_a_message_is_bounded() -> None:
    verdict = read_create(error(400, "c" * 1_000, None, "m" * 10_000), 0)
    assert isinstance(verdict, Rejected)
    assert (len(verdict.message), len(verdict.code)) == (500, 100)


def test_the_wait_comes_from_the_limit_that_the_error_names() -> None:
    headers = {
        "x_ratelimit_remaining_requests": "10", "x_ratelimit_reset_requests": "6m0s",
        "x_ratelimit_remaining_tokens": "12", "x_ratelimit_reset_tokens": "7.66s",
    }  # fmt: skip
    tokens = read_create(error(429, "rate_limit_exceeded", "tokens", "", **headers), 0)
    asked = read_create(error(429, "rate_limit_exceeded", "tokens", "", retry_after="2", **headers), 0)
    other = read_create(error(429, "slow_down", "rate_limit_error", "", **headers), 0)
    assert [v.wait_ms for v in (tokens, asked, other) if isinstance(v, Rejected)] == [7_660, 2_000, 0]


def test_without_a_named_limit_the_spent_ones_count() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "3s",
        "x-ratelimit-remaining-project-tokens": "1", "x-ratelimit-reset-project-tokens": "9s",
    }  # fmt: skip
    assert limit_reset_ms(headers, None) == 3_000
    assert limit_reset_ms({**headers, "x-ratelimit-remaining-project-tokens": "0"}, "tokens") == 9_000


@pytest.mark.parametrize(
    ("text", "wait_ms"),
    [
        ("1s", 1_000), ("6m0s", 360_000), ("7.66s", 7_660), ("120ms", 120), ("1h2m3.5s", 3_723_500), ("500us", 1),
        ("1.2ms", 2), ("10µs", 1), ("0s", 0), ("0", 0), ("", 0), ("12", 0), ("-1s", 0), ("1s ", 1_000), ("s", 0),
        ("1d", 0), ("٣s", 0), ("1s1", 0), ("9" * 400 + "s", 0), ("9" * 60 + "h", WAIT_MS_MAX),
    ],
)  # fmt: skip
def test_a_duration_as_go_prints_it(text: str, wait_ms: int) -> None:
    assert go_duration_ms(text) == wait_ms


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({"retry-after": "2"}, 2_000), ({"retry-after": "0.25"}, 250), ({"retry-after-ms": "1500"}, 1_500),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1_500), ({"retry-after-ms": "0", "retry-after": "9"}, 9_000),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9_000), ({"retry-after": "0"}, 0), ({"retry-after": "-5"}, 0),
        ({"retry-after": "nan"}, 0), ({"retry-after": "inf"}, 0), ({"retry-after": "soon"}, 0), ({}, 0),
        ({"retry-after": ""}, 0), ({"retry-after": "1e300"}, WAIT_MS_MAX),
        ({"retry-after": "Mon, 99 Foo 2026 25:61:00 GMT"}, 0),
    ],
)  # fmt: skip
def test_retry_after_in_each_form(headers: dict[str, str], wait_ms: int) -> None:
    assert retry_after_ms(headers, NOW_MS) == wait_ms


def test_retry_after_as_a_date_is_from_now() -> None:
    now = datetime.fromtimestamp(NOW_MS / 1_000, UTC)
    later, past = (format_datetime(now + timedelta(seconds=s), usegmt=True) for s in (30, -30))
    assert retry_after_ms({"retry-after": later}, NOW_MS) == 30_000
    assert retry_after_ms({"retry-after": past}, NOW_MS) == 0


def test_a_completed_response_is_seen_whole() -> None:
    body = completed()
    assert read_look(Answer(200, {"openai-poll-after-ms": "1500"}, body), RESPONSE_ID, 0) == Seen(
        outcome="completed",
        raw_status="completed",
        body=body,
        usage=Tokens(36, 87, 123, 5, 64),
        owner=Owner("job_1", 1, "acme"),
        created_at_ms=1_795_341_600_000,
        ended_at_ms=1_795_341_660_000,
        poll_after_ms=1_500,
    )


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_open_response_runs(status: str) -> None:
    seen = read_look(Answer(200, {}, response(status=status)), RESPONSE_ID, 0)
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.raw_status, seen.blame, seen.usage) == ("running", status, None, None)


@pytest.mark.parametrize(
    ("fault", "blame", "code", "known"),
    [
        *[({"code": code}, "soon", code, True) for code in sorted(SOON_CODES)],
        *[({"code": code}, "reset", code, True) for code in sorted(RESET_CODES)],
        *[({"code": code}, "never", code, True) for code in sorted(NEVER_CODES)],
        ({"code": "of_tomorrow"}, "soon", "of_tomorrow", False),
        ({"code": "of_tomorrow", "type": "invalid_request_error"}, "never", "of_tomorrow", False),
        ({"code": "server_error", "type": "invalid_request_error"}, "soon", "server_error", True),
        ({"code": None}, "soon", "no_code", False),
        ({"code": {"a": 1}}, "soon", "no_code", False),
        (None, "soon", "no_code", False),
        ("text", "soon", "no_code", False),
    ],
)
def test_a_failed_response_says_who_must_act(fault: Any, blame: str, code: str, known: bool) -> None:
    seen = read_look(Answer(200, {}, response(status="failed", error=fault)), RESPONSE_ID, 0)
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.blame, seen.code, seen.code_known) == ("failed", blame, code, known)


@pytest.mark.parametrize("reason", ["max_output_tokens", "max_messages", "content_filter", "steered"])
def test_an_incomplete_response_is_never_tried_again(reason: str) -> None:
    seen = read_look(
        Answer(200, {}, response(status="incomplete", incomplete_details={"reason": reason})), RESPONSE_ID, 0
    )
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.blame, seen.code) == ("incomplete", "never", reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (response(id="resp_other"), "another_id"),
        (response(status="of_tomorrow"), "unknown_status"),
        (response(status=None), "unknown_status"),
        (response(status=["queued"]), "unknown_status"),
        (response(output=None), "no_output_list"),
        (response(output="x"), "no_output_list"),
        (response(object="list"), "no_response_object"),
        ({}, "another_id"),
        ([1], "no_response_object"),
        (None, "no_response_object"),
        ({"error": {"message": "x"}}, "another_id"),
    ],
)
def test_a_look_counts_only_with_the_id_a_known_status_and_an_output(body: Any, reason: str) -> None:
    assert read_look(Answer(200, {}, body), RESPONSE_ID, 0) == AskAgain(reason)


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (error(404, None, "invalid_request_error"), Missing()),
        (Answer(404, {}, {"message": "Response not found", "type": "invalid_request_error"}), Missing()),
        (Answer(404), AskAgain("http_404")),
        (error(401, "invalid_api_key", None, "no"), Refused("invalid_api_key", "no")),
        (error(403, "no_access", None, "no"), Refused("no_access", "no")),
        (HTML_403, AskAgain("edge_block", 0, edge_block=True, limited=True)),
        (HTML_429, AskAgain("edge_block", 0, edge_block=True, limited=True)),
        (error(429, "slow_down", None, "", retry_after="3"), AskAgain("slow_down", 3_000, limited=True)),
        (error(429, "insufficient_quota"), AskAgain("insufficient_quota", 0, limited=True)),
        (error(400, "bad"), AskAgain("http_400")),
        (error(500, "x", retry_after="1"), AskAgain("http_500", 1_000)),
        (HTML_502, AskAgain("http_502")),
        (Answer(307), AskAgain("http_307")),
        (Answer(204), AskAgain("http_204")),
        (Answer(200), AskAgain("no_response_object")),
        (Fault("never_sent", "ConnectError"), AskAgain("never_sent: ConnectError")),
        (Fault("timeout"), AskAgain("timeout")),
    ],
)
def test_a_look_that_sees_nothing_says_why(answer: Answer | Fault, meaning: object) -> None:
    assert read_look(answer, RESPONSE_ID, NOW_MS) == meaning


def test_a_cancel_observes_with_any_status_and_is_declined_by_400_404_and_409() -> None:
    for body in (response(status="cancelled"), completed(), response(status="in_progress")):
        assert isinstance(read_cancel(Answer(200, {}, body), RESPONSE_ID, 0), Seen)
    assert read_cancel(error(400, "not_background"), RESPONSE_ID, 0) == NotCancelled("not_background")
    assert read_cancel(Answer(404, {}, {"message": "x"}), RESPONSE_ID, 0) == NotCancelled("http_404")
    assert read_cancel(Answer(409), RESPONSE_ID, 0) == NotCancelled("http_409")
    assert read_cancel(error(500), RESPONSE_ID, 0) == AskAgain("http_500")


@pytest.mark.parametrize(
    "metadata",
    [
        None, [], {}, {"job": "j", "attempt": "1"}, {"job": "j", "attempt": 1, "tenant": "t"},
        {"job": "j", "attempt": "0", "tenant": "t"}, {"job": "j", "attempt": "1", "tenant": "T"},
        {"job": "a b", "attempt": "1", "tenant": "t"}, {"job": "j", "attempt": "²", "tenant": "t"},
        {"job": "j\n", "attempt": "1", "tenant": "t"},
    ],
)  # fmt: skip
def test_an_owner_is_read_only_where_all_of_it_is_well_formed(metadata: Any) -> None:
    assert owner_of(metadata) is None


def test_odd_numbers_of_a_response_are_left_out() -> None:
    body = completed(created_at=float("inf"), metadata=None)
    body |= {"completed_at": -1, "usage": {"input_tokens": True, "output_tokens": -4, "total_tokens": "9"}}
    seen = read_look(Answer(200, {"openai-poll-after-ms": "-3"}, body), RESPONSE_ID, 0)
    assert isinstance(seen, Seen)
    assert (seen.created_at_ms, seen.ended_at_ms, seen.usage, seen.poll_after_ms) == (None, None, Tokens(), 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=6),
    max_leaves=12,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just(RESPONSE_ID) | JSON, "object": st.just("response") | JSON, "output": st.just([]) | JSON,
        "status": st.sampled_from(["queued", "failed", "incomplete", "completed"]) | JSON, "usage": JSON,
        "error": JSON | st.fixed_dictionaries({"code": JSON, "type": JSON, "message": JSON}), "metadata": JSON,
        "incomplete_details": JSON | st.fixed_dictionaries({"reason": JSON}), "created_at": JSON, "completed_at": JSON,
    },
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "openai-poll-after-ms", "x-ratelimit-reset-tokens",
                     "x-ratelimit-remaining-tokens", "x-request-id"]), st.text(max_size=80) | st.just("0"),
)  # fmt: skip
STATUSES = st.sampled_from([200, 204, 301, 400, 401, 403, 404, 408, 409, 429, 500, 503]) | st.integers()


@given(STATUSES, HEADERS, FIELDS | JSON)
def test_no_answer_whatever_it_is_makes_the_reading_fail(status: int, headers: dict[str, str], body: Any) -> None:
    answer = Answer(status, headers, body)
    verdict = read_create(answer, NOW_MS)
    assert isinstance(verdict, Accepted | Rejected | Unknown)
    if isinstance(verdict, Accepted):
        # What is accepted can be written down: an id that our fact refuses would be lost.
        AttemptAccepted(
            id="x", at_ms=0, job_id="j", attempt=1, tenant="t", look_at_ms=0,
            response_id=verdict.response_id, status=verdict.status, provider_request_id=verdict.provider_request_id,
        )  # fmt: skip
    assert isinstance(read_look(answer, RESPONSE_ID, NOW_MS), Seen | Missing | AskAgain | Refused)
    assert isinstance(read_cancel(answer, RESPONSE_ID, NOW_MS), Seen | NotCancelled | AskAgain | Refused)


@given(st.text(), st.integers(0, 1 << 45))
def test_no_header_makes_the_waits_fail(text: str, now_ms: int) -> None:
    for wait_ms in (
        go_duration_ms(text),
        retry_after_ms({"retry-after": text}, now_ms),
        retry_after_ms({"retry-after-ms": text}, now_ms),
        limit_reset_ms({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": text}, None),
        poll_after_ms({"openai-poll-after-ms": text}),
    ):
        assert 0 <= wait_ms <= WAIT_MS_MAX
