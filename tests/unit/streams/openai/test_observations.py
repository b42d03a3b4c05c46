"""A retrieved object, or the answer to a cancel: the status of the response, and why it failed."""

from typing import Any

import pytest

from schemas.base import Terms
from streams.openai.answers import Fault, ProviderAnswer, read_cancel, read_create, read_poll
from streams.openai.causes import CAUSE_OF_CODE
from streams.openai.observations import owner_of
from streams.provider import AskAgain, Missing, NotCancelled, Owner, Refused, Rejected, Seen, Tokens
from tests.unit.streams.policy.replies import HTML_403, HTML_429, HTML_502, NOW_MS, error
from tests.unit.streams.workers.misbehaving import completed, response


def test_a_completed_response_is_seen_whole() -> None:
    body = completed()
    assert read_poll(ProviderAnswer(200, {"openai-poll-after-ms": "1500"}, body), 0) == Seen(
        outcome="completed",
        raw_status="completed",
        body=body,
        usage=Tokens(36, 87, 123, 5, 64, 0),
        terms=Terms(model="gpt-6-astra"),
        owner=Owner("job_1", 1, "acme"),
        created_at_ms=1_795_341_600_000,
        ended_at_ms=1_795_341_660_000,
        poll_after_ms=1_500,
        model="gpt-6-astra",
    )


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_an_open_response_runs(status: str) -> None:
    seen = read_poll(ProviderAnswer(200, {}, response(status=status)), 0)
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.raw_status, seen.cause, seen.usage) == ("running", status, None, None)


@pytest.mark.parametrize(
    ("fault", "cause", "code", "known"),
    [
        *[({"code": code}, cause, code, True) for code, cause in sorted(CAUSE_OF_CODE.items())],
        ({"code": "of_tomorrow"}, "faulty", "of_tomorrow", False),
        ({"code": "of_tomorrow", "type": "invalid_request_error"}, "never", "of_tomorrow", True),
        ({"code": "server_error", "type": "invalid_request_error"}, "faulty", "server_error", True),
        ({"type": "insufficient_quota"}, "account", "insufficient_quota", True),
        ({"code": "rate_limit_exceeded", "message": "Request too large for gpt"}, "never", "rate_limit_exceeded", True),
        ({"code": None}, "faulty", "no_code", False),
        ({"code": {"a": 1}}, "faulty", "no_code", False),
        (None, "faulty", "no_code", False),
        ("text", "faulty", "no_code", False),
    ],
)
def test_a_failed_response_says_why(fault: Any, cause: str, code: str, known: bool) -> None:
    seen = read_poll(ProviderAnswer(200, {}, response(status="failed", error=fault)), 0)
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.cause, seen.code, seen.code_known) == ("failed", cause, code, known)


@pytest.mark.parametrize("code", sorted(CAUSE_OF_CODE))
def test_a_code_means_the_same_at_the_create_and_after_it(code: str) -> None:
    refused = read_create(error(400, code), 0)
    ended = read_poll(ProviderAnswer(200, {}, response(status="failed", error={"code": code})), 0)
    assert isinstance(refused, Rejected)
    assert isinstance(ended, Seen)
    assert refused.cause == ended.cause


@pytest.mark.parametrize("reason", ["max_output_tokens", "max_messages", "content_filter", "steered"])
def test_an_incomplete_response_is_never_tried_again(reason: str) -> None:
    seen = read_poll(ProviderAnswer(200, {}, response(status="incomplete", incomplete_details={"reason": reason})), 0)
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.cause, seen.code) == ("incomplete", "never", reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (response(object="list"), "no_response_object"),
        (response(status=None, error=[], id=None, metadata=None), "no_status"),
        ({}, "no_response_object"),
        ([1], "no_response_object"),
        (None, "no_response_object"),
        ({"status": "success", "data": None}, "no_response_object"),
        ({"status": "error", "message": "database down"}, "no_response_object"),
        (completed(), "another_job"),
    ],
)
def test_no_response_or_that_of_another_job_is_polled_again_for_a_time(body: Any, reason: str) -> None:
    read = read_poll(ProviderAnswer(200, {}, body), 0, "job_of_somebody_else")
    assert isinstance(read, Missing)
    assert read.code == reason


@pytest.mark.parametrize(
    "body", [{"error": {"message": "x"}}, response(status=None, error={"code": "x"}, metadata=None)]
)
def test_an_error_in_a_200_at_a_poll_may_pass(body: Any) -> None:
    read = read_poll(ProviderAnswer(200, {}, body), 0, "job_1")
    assert isinstance(read, AskAgain)
    assert read.reason in ("http_200", "x")


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (completed(id="resp_of_the_server_behind"), "completed"),
        (completed(id=None, metadata=None), "completed"),
        ({**completed(), "output": None}, "completed"),
        (response(status="failed", output=None), "failed"),
        (response(status="pending"), "running"),
        (response(status="canceled"), "cancelled"),
        (response(status="of_tomorrow"), "odd"),
        (response(status=None), "odd"),
        (response(status=["queued"]), "odd"),
    ],
)
def test_the_object_at_the_address_counts_by_its_status(body: Any, outcome: str) -> None:
    seen = read_poll(ProviderAnswer(200, {}, body), 0, "job_1")
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.over) == (outcome, outcome not in ("running", "odd"))
    assert isinstance(seen.body["output"], list)


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (error(404, None, "invalid_request_error"), Missing()),
        (ProviderAnswer(404, {}, {"message": "Response not found", "type": "invalid_request_error"}), Missing()),
        (error(410, "gone"), Missing()),
        (ProviderAnswer(404), Missing("http_404")),
        (ProviderAnswer(200, {}, completed(), broken=True), AskAgain("lost: the answer broke off")),
        (error(401, "invalid_api_key", None, "no"), Refused("invalid_api_key", "no")),
        (error(403, "no_access", None, "no"), Refused("no_access", "no")),
        (HTML_403, AskAgain("edge_block", 0, limited=True)),
        (HTML_429, AskAgain("edge_block", 0, limited=True)),
        (error(429, "slow_down", None, "", retry_after="3"), AskAgain("slow_down", 3_000, limited=True)),
        (error(429, "insufficient_quota"), AskAgain("insufficient_quota", 0, limited=True)),
        (error(400, "bad"), Missing("bad")),
        (error(400, "conversation_locked"), AskAgain("http_400")),
        (error(500, "x", retry_after="1"), AskAgain("http_500", 1_000)),
        (HTML_502, AskAgain("http_502")),
        (ProviderAnswer(307), AskAgain("http_307")),
        (ProviderAnswer(204), Missing("no_response_object")),
        (ProviderAnswer(200), Missing("no_response_object")),
        (error(200, "server_error"), AskAgain("server_error")),
        (error(200, "model_not_found", None, "no"), Missing("model_not_found", "no")),
        (Fault("never_sent", "ConnectError"), AskAgain("never_sent: ConnectError")),
        (Fault("timeout"), AskAgain("timeout")),
    ],
)
def test_a_poll_that_sees_nothing_says_why(answer: ProviderAnswer | Fault, meaning: object) -> None:
    assert read_poll(answer, NOW_MS) == meaning


def test_a_cancel_observes_with_any_status_and_is_declined_by_400_404_and_409() -> None:
    for body in (response(status="cancelled"), completed(), response(status="in_progress")):
        assert isinstance(read_cancel(ProviderAnswer(200, {}, body), 0), Seen)
    assert read_cancel(error(400, "not_background"), 0) == NotCancelled("not_background")
    assert read_cancel(ProviderAnswer(404, {}, {"message": "x"}), 0) == NotCancelled("http_404")
    assert read_cancel(ProviderAnswer(409), 0) == NotCancelled("http_409")
    assert read_cancel(error(500), 0) == AskAgain("http_500")


@pytest.mark.parametrize(
    "metadata",
    [
        None, [], {}, {"job": "j", "attempt": "1"}, {"job": "j", "attempt": 1, "tenant": "t"},
        {"job": "j", "attempt": "0", "tenant": "t"}, {"job": "j", "attempt": "1", "tenant": "T"},
        {"job": "a b", "attempt": "1", "tenant": "t"}, {"job": "j", "attempt": "²", "tenant": "t"},
        {"job": "j\n", "attempt": "1", "tenant": "t"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "backstop_"])
def test_an_owner_is_read_only_where_all_of_it_is_well_formed(metadata: Any, prefix: str) -> None:
    named = {f"{prefix}{name}": value for name, value in metadata.items()} if isinstance(metadata, dict) else metadata
    assert owner_of(named) is None


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        ({"backstop_job": "t:j", "backstop_attempt": "2", "backstop_tenant": "t"}, Owner("t:j", 2, "t")),
        ({"job": "t:j", "attempt": "2", "tenant": "t"}, Owner("t:j", 2, "t")),
        ({"job": "j", "attempt": "1", "tenant": "default"}, Owner("j", 1, "default")),
        ({"job": "nightly", "attempt": "1", "tenant": "acme"}, None),
        ({"job": "x:j", "attempt": "1", "tenant": "default"}, None),
        ({"job": "t:j", "attempt": "2", "tenant": "t", "backstop_job": "j"}, None),
        ({"job": "t:j", "attempt": "2", "tenant": "t"}
         | {"backstop_job": "j", "backstop_attempt": "1", "backstop_tenant": "default"}, Owner("j", 1, "default")),
    ],
    ids=["now", "before", "before, default", "a user's own", "no id of that tenant", "half of ours",
    "ours beside a user's"],
)  # fmt: skip
def test_backstops_metadata_is_told_from_a_users(metadata: dict[str, str], owner: Owner | None) -> None:
    assert owner_of(metadata) == owner


def test_what_a_running_response_shows_of_its_work() -> None:
    calm, usage = response(status="in_progress"), {"output_tokens": 4, "total_tokens": 5}
    shown = [calm, {**calm, "usage": usage}, {**calm, "output": [{"text": "abc"}]}, completed()]
    seen = [read_poll(ProviderAnswer(200, {}, body), 0, "job_1") for body in shown]
    assert [each.progress for each in seen if isinstance(each, Seen)] == [None, 9, 5, None]


def test_odd_numbers_of_a_response_are_left_out() -> None:
    body = completed(created_at=float("inf"), metadata=None)
    body |= {"completed_at": -1, "usage": {"input_tokens": True, "output_tokens": -4, "total_tokens": "9x"}}
    seen = read_poll(ProviderAnswer(200, {"openai-poll-after-ms": "-3"}, body), 0)
    assert isinstance(seen, Seen)
    assert (seen.created_at_ms, seen.ended_at_ms, seen.usage, seen.poll_after_ms) == (None, None, None, 0)


@pytest.mark.parametrize(
    ("usage", "part"),
    [
        ({"total_tokens": 15}, True), ({"input_tokens": 10}, True), ({"output_tokens": "7"}, True),
        ({"prompt_tokens": 3, "completion_tokens": -7}, True), ({"input_tokens": 10, "output_tokens": 7}, None),
        ({}, None), ({"total_tokens": 0}, None), ({"total_tokens": "many", "output_tokens": 0}, None),
        ({"input_tokens": None, "output_tokens": None, "total_tokens": None}, None), ({"cost": 3}, None),
    ],
)  # fmt: skip
def test_a_usage_that_tells_a_part_of_its_counts_is_known_to_be_one(usage: Any, part: bool | None) -> None:
    seen = read_poll(ProviderAnswer(200, {}, completed() | {"usage": usage}), 0)
    assert isinstance(seen, Seen)
    assert seen.terms is not None
    assert seen.terms.part_of_usage is part


@pytest.mark.parametrize(
    ("usage", "known"),
    [
        ({}, None), ([], None), ("9", None), ({"cost": 3}, None), ({"input_tokens": None, "output_tokens": None}, None),
        ({"input_tokens": 10, "output_tokens": -1}, None), ({"input_tokens": 10, "output_tokens": "many"}, None),
        ({"input_tokens": 10, "output_tokens": 10**9 + 1}, None), ({"input_tokens": 10, "output_tokens": 1e300}, None),
        ({"input_tokens": 10, "output_tokens": float("nan")}, None), ({"input_tokens": [7]}, None),
        ({"input_tokens": True, "output_tokens": 7}, None), ({"prompt_tokens": -3, "completion_tokens": 7}, None),
        ({"input_tokens": 10}, None), ({"output_tokens": 7}, None), ({"total_tokens": 15}, None),
        ({"input_tokens": 10, "output_tokens": 7, "total_tokens": 10**30}, Tokens(10, 7, 17)),
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": None}, Tokens(10, 5, 15)),
        ({"input_tokens": None, "prompt_tokens": 5, "completion_tokens": 6}, Tokens(5, 6, 11)),
        ({"input_tokens": 0, "prompt_tokens": 5, "output_tokens": 1}, Tokens(0, 1, 1)),
        ({"input_tokens": 10**9, "output_tokens": 0}, Tokens(10**9, 0, 10**9)),
        ({"input_tokens": "10", "output_tokens": 7.0}, Tokens(10, 7, 17)),
        ({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, Tokens(0, 0, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 7}, Tokens(3, 7, 10)),
    ],
)  # fmt: skip
def test_a_usage_that_can_not_be_read_is_unknown_and_never_0(usage: Any, known: Tokens | None) -> None:
    seen = read_poll(ProviderAnswer(200, {}, completed() | {"usage": usage}), 0)
    assert isinstance(seen, Seen)
    assert seen.outcome == "completed"
    assert seen.usage == known
