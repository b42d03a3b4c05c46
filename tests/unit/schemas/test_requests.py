"""The requests that clients may send, and the limits at which they are refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.codec import PoisonError, canonical, decode
from schemas.requests import (
    METADATA_PAIRS_MAX,
    REQUEST,
    REQUEST_DEPTH_MAX,
    RETRIES_MAX,
    TIMEOUT_MS_MAX,
    TIMEOUT_MS_MIN,
    Cancel,
    Submit,
)

LEAST: dict[str, Any] = {"type": "submit", "request": {"model": "m"}}


def submit(**changes: Any) -> dict[str, Any]:
    return {**LEAST, **changes}


def request(**changes: Any) -> dict[str, Any]:
    return {**LEAST, "request": {"model": "m", **changes}}


def pairs(count: int) -> dict[str, str]:
    return {f"k{number}": "v" for number in range(count)}


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "body",
    [
        LEAST,
        submit(v=1, job_id="Job_1.a-b"),
        submit(job_id="j" * 100),
        submit(deadline_at_ms=0),
        submit(deadline_at_ms=None, timeout_ms=None),
        submit(timeout_ms=TIMEOUT_MS_MIN),
        submit(timeout_ms=TIMEOUT_MS_MAX),
        submit(retries_max=0),
        submit(retries_max=RETRIES_MAX),
        submit(session_id="a:b"),
        submit(tags=["t" * 64] * 16),
        request(input=nested(REQUEST_DEPTH_MAX - 1)),
        request(model="m" * 128),
        request(background=True, store=True, stream=False),
        request(stream=None),
        request(stream=True),
        request(metadata=None),
        request(metadata={}),
        request(metadata=pairs(METADATA_PAIRS_MAX)),
        request(metadata={"k" * 64: "v" * 512}),
        request(input=[{"role": "user", "content": "hello"}], anything_of_the_providers=1),
    ],
)
def test_an_honest_submission_is_taken(body: dict[str, Any]) -> None:
    taken = decode(REQUEST, canonical(body))
    assert isinstance(taken, Submit)
    assert taken.request == body["request"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (submit(deadline=5), "is not known here"),
        (submit(deadline_at_ms=5, timeout_ms=5000), "deadline_at_ms or timeout_ms, not both"),
        (submit(deadline_at_ms=-1), "greater than or equal to 0"),
        (submit(timeout_ms=TIMEOUT_MS_MIN - 1), "greater than or equal to 1000"),
        (submit(timeout_ms=TIMEOUT_MS_MAX + 1), "less than or equal to"),
        (submit(retries_max=-1), "greater than or equal to 0"),
        (submit(retries_max=RETRIES_MAX + 1), "less than or equal to 10"),
        (submit(retries_max=False), "must be a whole number"),
        (submit(retries_max="2"), "must be a whole number"),
        (submit(timeout_ms="5000"), "must be a whole number"),
        (submit(deadline_at_ms=True), "must be a whole number"),
        (submit(job_id="a:b"), "match pattern"),
        (submit(job_id=""), "match pattern"),
        (submit(job_id="j" * 101), "100 characters"),
        (submit(job_id="job\n"), "match pattern"),
        (submit(session_id="a b"), "match pattern"),
        (submit(session_id="x" * 129), "128 characters"),
        (submit(job_id="."), "match pattern"),
        (submit(job_id="..."), "match pattern"),
        (submit(tags=[""]), "at least 1 character"),
        (submit(tags=["t" * 65]), "at most 64 characters"),
        (submit(tags=["t"] * 17), "at most 16"),
        ({"type": "submit"}, "is missing"),
        (submit(request="model"), "must be an object"),
        (submit(request={}), "request.model must be"),
        (request(model=""), "request.model must be"),
        (request(model="m" * 129), "request.model must be"),
        (request(model=["m"]), "request.model must be"),
        (request(background=False), "request.background is set to true by Backstop"),
        (request(background=None), "request.background is set to true by Backstop"),
        (request(background=1), "request.background is set to true by Backstop"),
        (request(store=False), "request.store is set to true by Backstop"),
        (request(stream={}), "request.stream must be true or false"),
        (request(stream=1), "request.stream must be true or false"),
        (request(metadata=[]), "request.metadata must be an object of strings"),
        (
            request(metadata=pairs(METADATA_PAIRS_MAX + 1)),
            "has 14 pairs and may have 13: the provider takes 16, and Backstop adds 3",
        ),
        (request(metadata=pairs(15)), "has 15 pairs and may have 13"),
        (request(metadata=pairs(16)), "has 16 pairs and may have 13"),
        (request(metadata={"backstop_job": "x"}), "request.metadata.backstop_job is set by Backstop"),
        (request(metadata={"backstop_attempt": "1"}), "request.metadata.backstop_attempt is set by Backstop"),
        (request(metadata={"backstop_tenant": "acme"}), "request.metadata.backstop_tenant is set by Backstop"),
        (request(metadata={"k" * 65: "v"}), "names up to 64"),
        (request(metadata={"k": "v" * 513}), "string values up to 512"),
        (request(metadata={"k": 1}), "string values up to 512"),
        (request(input=nested(REQUEST_DEPTH_MAX)), "request is nested deeper than 100 levels"),
        (submit(deadline_at_ms=2**52 + 1), "less than or equal to"),
        ({"type": "cancel"}, "is missing"),
        ({"type": "cancel", "job_id": "j", "reason": "r" * 201}, "at most 200 characters"),
        ({"type": "cancel", "job_id": "j", "why": "no"}, "is not known here"),
    ],
)
def test_a_wrong_request_is_refused_and_told_why(body: dict[str, Any], said: str) -> None:
    with pytest.raises(PoisonError) as caught:
        decode(REQUEST, canonical(body))
    assert caught.value.reason == "invalid"
    assert said in caught.value.detail


def test_a_request_of_no_known_type_is_refused_as_such() -> None:
    with pytest.raises(PoisonError) as caught:
        decode(REQUEST, canonical({"type": "resubmit", "job_id": "j"}))
    assert caught.value.reason == "unknown_type"


def test_a_request_of_a_future_version_is_refused_as_such() -> None:
    with pytest.raises(PoisonError) as caught:
        decode(REQUEST, canonical(submit(v=2)))
    assert caught.value.reason == "unknown_version"


def test_a_cancel_is_taken() -> None:
    assert decode(REQUEST, b'{"type":"cancel","job_id":"j"}') == Cancel(type="cancel", job_id="j")


def test_a_submission_from_code_needs_no_type() -> None:
    assert Submit(request={"model": "m"}).type == "submit"
    with pytest.raises(ValidationError):
        Cancel.model_validate({"job_id": "j"})
