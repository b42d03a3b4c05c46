"""The canonical form of a submission: made once, and the same bytes for good."""

from typing import Any

import pytest

from schemas.codec import canonical, sha256_hex
from schemas.requests import Submit
from streams.submission import SubmissionPolicy, prepare

REQUEST: dict[str, Any] = {
    "model": "m", "input": [{"z": None, "a": ['"request":', 1.5, "ü\u2028"]}], "metadata": None,
    "request": {"b": 1, "a": 2},
}  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"job_id": "mine", "deadline_at_ms": 5, "retries_max": 0, "session_id": "s", "tags": ["t"]},
        {"timeout_ms": 1_000, "tags": []},
    ],
)
def test_the_canonical_form_is_that_of_the_whole_model(more: dict[str, Any]) -> None:
    submit = Submit(request=REQUEST, **more)
    prepared = prepare(submit)
    assert prepared.data == canonical(submit.model_dump(mode="json", exclude={"job_id"}, exclude_none=True))
    assert prepared.sha256 == sha256_hex(prepared.data)
    assert bytes(prepared.request_json) == canonical(REQUEST)


def test_the_form_of_a_submissions_hash_never_changes() -> None:
    submit = Submit(request={"model": "m", "input": "hello"}, tags=("t",))
    assert prepare(submit).data == b'{"request":{"input":"hello","model":"m"},"tags":["t"],"type":"submit","v":1}'


@pytest.mark.parametrize(("asked", "granted"), [(None, 2), (1, 1), (3, 3), (10, 3)])
def test_no_submission_gets_more_retries_than_the_operator_grants(asked: int | None, granted: int) -> None:
    assert SubmissionPolicy(retries_max=2, retries_granted_max=3).stamp(asked).retries_max == granted
