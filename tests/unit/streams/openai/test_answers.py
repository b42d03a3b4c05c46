"""The forms of the provider's answers, and their meaning."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.jobs import AttemptAccepted
from streams.openai.answers import Fault, ProviderAnswer, read_cancel, read_create, read_poll
from streams.openai.causes import Rule
from streams.openai.durations import WAIT_MS_MAX, go_duration_ms
from streams.openai.waits import limit_reset_ms, poll_after_ms, retry_after_ms
from streams.provider import Accepted, AskAgain, Missing, NotCancelled, Refused, Rejected, Seen, Unknown
from tests.unit.streams.policy.replies import HTML_403, HTML_429, NOW_MS, error
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, response

REFUSALS = [
    (error(429, "rate_limit_exceeded", "requests", "Rate limit reached for gpt"), "limited", "rate_limit_exceeded"),
    (error(429, "rate_limit_exceeded", "tokens", "Rate limit reached for gpt"), "limited", "rate_limit_exceeded"),
    (error(429, "rate_limit_exceeded", "tokens", "Request too large for"), "never", "rate_limit_exceeded"),
    (error(429, "rate_limit_exceeded", "tokens", "Limit 3. Request too large"), "limited", "rate_limit_exceeded"),
    (error(429, "slow_down", "rate_limit_error"), "overloaded", "slow_down"),
    (error(429, "insufficient_quota", "insufficient_quota"), "account", "insufficient_quota"),
    (error(429, None, "insufficient_quota"), "account", "insufficient_quota"),
    (error(429, "billing_not_active", "billing_not_active"), "account", "billing_not_active"),
    (error(429, "rate_limit_exceeded", "insufficient_quota"), "account", "rate_limit_exceeded"),
    (error(429, "credit_balance_exhausted", "insufficient_quota"), "account", "credit_balance_exhausted"),
    (error(429, "project_spend_limit_exceeded"), "account", "project_spend_limit_exceeded"),
    (error(429, "organization_usage_limit_exceeded"), "account", "organization_usage_limit_exceeded"),
    (error(429, "organization_spend_limit_exceeded"), "account", "organization_spend_limit_exceeded"),
    (error(429, None, None), "limited", "http_429"),
    (error(429, "resource_unavailable"), "overloaded", "resource_unavailable"),
    (ProviderAnswer(429, {}, None), "limited", "http_429"),
    (HTML_429, "limited", "edge_block"),
    (HTML_403, "limited", "edge_block"),
    (error(503, "server_is_overloaded", "service_unavailable_error"), "overloaded", "server_is_overloaded"),
    (error(503, None, "service_unavailable_error"), "overloaded", "service_unavailable_error"),
    (error(503, "whatever"), "overloaded", "whatever"),
    (error(502, "whatever"), "faulty", "whatever"),
    (error(529, None, "overloaded_error"), "overloaded", "overloaded_error"),
    (ProviderAnswer(504, {"retry-after": "4"}, text="<html>"), "faulty", "http_504"),
    (ProviderAnswer(503, {}, {"detail": "no workers"}), "overloaded", "http_503"),
    (error(500, "server_is_overloaded"), "overloaded", "server_is_overloaded"),
    (error(409, "conversation_locked"), "later", "conversation_locked"),
    (error(425, "too_early"), "later", "too_early"),
    (error(400, "conversation_locked", "invalid_request_error"), "later", "conversation_locked"),
    (
        error(400, None, "invalid_request_error", "The conversation is locked. Try again."),
        "later",
        "invalid_request_error",
    ),
    (ProviderAnswer(400, {}, {"detail": "The queue is full. Try again later."}), "later", "http_400"),
    (ProviderAnswer(400, {}, {"error": "Queue full"}), "later", "http_400"),
    (ProviderAnswer(400, {}, {"detail": "of tomorrow"}), "odd", "http_400"),
    (ProviderAnswer(400, text="of tomorrow"), "odd", "http_400"),
    (ProviderAnswer(400), "odd", "http_400"),
    (ProviderAnswer(404, text="<html>"), "odd", "http_404"),
    (ProviderAnswer(418, {}, {}), "odd", "http_418"),
    (error(400, "invalid_value", "invalid_request_error"), "never", "invalid_value"),
    (error(400, "of_tomorrow", "invalid_request_error"), "never", "of_tomorrow"),
    (error(404, "model_not_found"), "never", "model_not_found"),
    (error(413), "never", "http_413"),
    (error(422), "never", "http_422"),
    (error(401, "invalid_api_key"), "account", "invalid_api_key"),
    (ProviderAnswer(401), "account", "http_401"),
    (error(403, "of_tomorrow"), "account", "of_tomorrow"),
    (error(403, "content_policy_violation"), "never", "content_policy_violation"),
    (ProviderAnswer(301), "account", "http_301"),
    (ProviderAnswer(307), "account", "http_307"),
    (error(402, "billing_hard_limit"), "account", "billing_hard_limit"),
    (error(200, "server_is_overloaded"), "overloaded", "server_is_overloaded"),
    (error(200, "insufficient_quota"), "account", "insufficient_quota"),
    (ProviderAnswer(200, {}, {"error": "boom"}), "faulty", "http_200"),
    (
        ProviderAnswer(200, {}, {"type": "error", "error": {"type": "overloaded_error"}}),
        "overloaded",
        "overloaded_error",
    ),
]


@pytest.mark.parametrize(("answer", "cause", "code"), REFUSALS)
def test_a_refused_create_says_why(answer: ProviderAnswer, cause: str, code: str) -> None:
    verdict = read_create(answer, NOW_MS)
    assert isinstance(verdict, Rejected)
    assert (verdict.cause, verdict.code, verdict.alarm) == (cause, code, cause == "account")
    assert verdict.http_status == (None if answer.status == 200 else answer.status)
    assert verdict.limited == (code == "edge_block")


@pytest.mark.parametrize("status", [408, 409, 425, 499, 500, 502, 503, 504, 507, 520, 529, 599, 100, 0, 999])
def test_an_answer_that_does_not_say_whether_it_was_taken_is_unknown(status: int) -> None:
    unknown = Unknown(f"http_{status}", "<html> oops", answered=status >= 500)
    assert read_create(ProviderAnswer(status, text="<html> oops"), NOW_MS) == unknown


@pytest.mark.parametrize("status", [408, 499])
def test_a_server_that_gave_up_waiting_proves_nothing(status: int) -> None:
    assert isinstance(read_create(error(status, "request_timeout", "server_error", "try again"), 0), Unknown)


def test_a_server_error_without_a_refusal_in_it_may_have_been_taken() -> None:
    assert read_create(error(500, "server_error", "server_error", "oops"), 0) == Unknown(
        "http_500", "oops", answered=True
    )


def test_an_operators_own_rule_wins() -> None:
    ours = (Rule("later", status=400, code="of_tomorrow"),)
    verdict = read_create(error(400, "of_tomorrow", "invalid_request_error"), NOW_MS, ours)
    assert isinstance(verdict, Rejected)
    assert verdict.cause == "later"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "no"}, "no"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"error": "no"}, "no"),
        ({"message": "no"}, "no"),
        ({"type": "https://example.com/odd", "title": "Odd", "status": 400, "detail": "no"}, "no"),
        ({"type": "about:blank", "title": "Odd"}, "Odd"),
        ({"error": {"message": "a\x1b[31mb\u202ec"}}, "a [31mb c"),
    ],
)
def test_the_providers_message_is_found_in_each_form_and_cleaned(body: Any, said: str) -> None:
    verdict = read_create(ProviderAnswer(400, {}, body), 0)
    assert isinstance(verdict, Rejected)
    assert verdict.message == said


@pytest.mark.parametrize(("words", "wait_ms"), [
    ("Please try again in 20s.", 20_000), ("Try again in 6m0s", 360_000), ("retry after 26 seconds", 26_000),
    ("wait 2 minutes", 120_000),
    ("try again in 1d2h3m", 93_780_000), ("try again in 120ms", 120), ("try again later", 0),
])  # fmt: skip
def test_a_wait_in_the_message_is_used(words: str, wait_ms: int) -> None:
    refused = read_create(error(429, "rate_limit_exceeded", None, words), 0)
    ended = read_poll(
        ProviderAnswer(200, {}, response(status="failed", error={"code": "rate_limit_exceeded", "message": words})), 0
    )
    assert isinstance(refused, Rejected)
    assert isinstance(ended, Seen)
    assert refused.wait_ms == ended.wait_ms == wait_ms


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("state", ["queued", "in_progress", "new"])
def test_a_create_is_accepted_by_its_id_whatever_its_status(status: int, state: str) -> None:
    body = {"id": "resp_1", "object": "response", "status": state}
    assert read_create(ProviderAnswer(status, {"x-request-id": "req_1"}, body), 0) == Accepted("resp_1", state, "req_1")


@pytest.mark.parametrize("state", ["completed", "failed", "incomplete", "cancelled"])
def test_a_create_that_shows_the_end_is_its_end(state: str) -> None:
    accepted = read_create(ProviderAnswer(200, {}, response(status=state, background=False)), 0)
    assert isinstance(accepted, Accepted)
    assert accepted.end is not None
    assert (accepted.response_id, accepted.end.outcome) == (RESPONSE_ID, state)


def test_an_end_needs_no_id() -> None:
    accepted = read_create(ProviderAnswer(200, {}, {"object": "response", "status": "completed", "output": None}), 0)
    assert isinstance(accepted, Accepted)
    assert accepted.end is not None
    assert (accepted.response_id, accepted.end.body["output"]) == ("", [])


def test_a_create_is_accepted_however_odd_the_rest() -> None:
    body = {"id": "resp_1", "object": "response", "status": [], "output": "x", "error": {"code": "server_error"}}
    assert read_create(ProviderAnswer(200, {}, body), 0) == Accepted("resp_1", "unknown", None)


@given(st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=1_024))
def test_an_id_is_opaque(response_id: str) -> None:
    body = {"id": response_id, "object": "response", "status": "queued"}
    assert read_create(ProviderAnswer(200, {}, body), 0) == Accepted(response_id, "queued")


@pytest.mark.parametrize(
    "body", [{}, None, [], [1], "x", 1, {"id": "resp_1", "x": 1}, {"id": "resp_1", "object": "error"}]
)
def test_a_create_without_a_response_is_unknown(body: Any) -> None:
    verdict = read_create(ProviderAnswer(200, {}, body), 0)
    assert isinstance(verdict, Unknown)
    assert (verdict.reason, verdict.alarm) == ("no_response_object: http_200", True)


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (Fault("never_sent", "ConnectError"), Rejected("unsent", "never_sent", "ConnectError")),
        (Fault("lost", "ReadError"), Unknown("lost: ReadError")),
        (Fault("timeout"), Unknown("timeout")),
        (Fault("unexpected", "KeyError"), Unknown("unexpected: KeyError", alarm=True)),
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
    assert limit_reset_ms(headers, None, NOW_MS) == 3_000
    assert limit_reset_ms({**headers, "x-ratelimit-remaining-project-tokens": "0"}, "tokens", NOW_MS) == 9_000


@pytest.mark.parametrize(
    ("text", "wait_ms"),
    [
        ("1s", 1_000), ("6m0s", 360_000), ("7.66s", 7_660), ("120ms", 120), ("1h2m3.5s", 3_723_500), ("500us", 1),
        ("1.2ms", 2), ("10µs", 1), ("0s", 0), ("0", 0), ("", 0), ("12", 0), ("-1s", 0), ("1s ", 1_000), ("s", 0),
        ("1d", 86_400_000), ("٣s", 0), ("1s1", 0), ("9" * 400 + "s", 0), ("9" * 60 + "h", WAIT_MS_MAX),
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
        ({"retry-after": ""}, 0), ({"retry-after": "1e300"}, 0),
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
def test_reading_is_total_over_answers(status: int, headers: dict[str, str], body: Any) -> None:
    answer = ProviderAnswer(status, headers, body)
    verdict = read_create(answer, NOW_MS)
    assert isinstance(verdict, Accepted | Rejected | Unknown)
    if isinstance(verdict, Accepted):
        # An accepted answer must fit into the fact: an id that the fact refuses would be lost.
        AttemptAccepted(
            id="x", at_ms=0, job_id="j", attempt=1, tenant="t", poll_at_ms=0,
            response_id=verdict.response_id or "x", status=verdict.status,
            provider_request_id=verdict.provider_request_id,
        )  # fmt: skip
    assert isinstance(read_poll(answer, NOW_MS), Seen | Missing | AskAgain | Refused)
    assert isinstance(read_cancel(answer, NOW_MS), Seen | NotCancelled | AskAgain | Refused)


@given(st.text(), st.integers(0, 1 << 45))
def test_no_header_makes_the_waits_fail(text: str, now_ms: int) -> None:
    for wait_ms in (
        go_duration_ms(text),
        retry_after_ms({"retry-after": text}, now_ms),
        retry_after_ms({"retry-after-ms": text}, now_ms),
        limit_reset_ms({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": text}, None, now_ms),
        poll_after_ms({"openai-poll-after-ms": text}),
    ):
        assert 0 <= wait_ms <= WAIT_MS_MAX
