"""Several responses in one answer: the one that was asked for counts, by its id, else by its metadata."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.openai.answers import ProviderAnswer, read_cancel, read_create, read_poll
from streams.openai.foreign_json import parse, unwrapped
from streams.provider import Accepted, Missing, Seen, Unknown
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, completed, response

OTHERS = [
    response(id="resp_2", metadata={}),
    completed(id="resp_3", metadata={"backstop_job": "job_2", "backstop_attempt": "1", "backstop_tenant": "acme"}),
    completed(id="resp_4", metadata={"backstop_job": "job_1", "backstop_attempt": "2", "backstop_tenant": "acme"}),
]
AROUND: dict[str, Any] = {
    "a list": lambda held: held,
    "data": lambda held: {"object": "list", "data": held, "has_more": False},
    "responses": lambda held: {"responses": held},
    "a result": lambda held: {"success": True, "result": held},
}


def answer(around: str, held: list[Any]) -> ProviderAnswer:
    return ProviderAnswer(200, {}, unwrapped(parse(json.dumps(AROUND[around](held)).encode())))


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("at", range(len(OTHERS) + 1))
def test_a_create_takes_that_of_its_job_and_attempt(around: str, at: int) -> None:
    held = [*OTHERS[:at], response(), *OTHERS[at:]]
    accepted = read_create(answer(around, held), 0, (), "job_1", 1)
    assert isinstance(accepted, Accepted)
    assert accepted.response_id == RESPONSE_ID


@pytest.mark.parametrize("around", AROUND)
def test_a_create_takes_none_of_others(around: str) -> None:
    assert isinstance(read_create(answer(around, OTHERS), 0, (), "job_3", 1), Unknown)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("named", [True, False])
def test_a_poll_takes_that_of_its_id_else_of_its_job(around: str, named: bool) -> None:
    ours = completed() if named else completed(id="another")
    reply = answer(around, [*OTHERS[:2], ours, response(id="resp_5", metadata={})])
    for read in (read_poll, read_cancel):
        seen = read(reply, 0, "job_1", (), RESPONSE_ID)
        assert isinstance(seen, Seen)
        assert (seen.outcome, seen.body["id"]) == ("completed", ours["id"])


def test_a_poll_takes_none_of_others() -> None:
    assert isinstance(read_poll(answer("data", OTHERS[:2]), 0, "job_1", (), RESPONSE_ID), Missing)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(["data", "id", "status", "x"]), inside)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_can_be_read(body: Any) -> None:
    read_create(ProviderAnswer(200, {}, body), 0, (), "job_1", 1)
    read_poll(ProviderAnswer(200, {}, body), 0, "job_1", (), RESPONSE_ID)


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 503, 504])
def test_a_response_is_one_with_any_http_status(status: int) -> None:
    """Gateways answer with the response, and with a status that fits its own or the one of the call."""
    accepted = read_create(ProviderAnswer(status, {}, response()), 0, (), "job_1", 1)
    assert isinstance(accepted, Accepted)
    for read in (read_poll, read_cancel):
        for body in (completed(), completed(metadata={})):
            seen = read(ProviderAnswer(status, {}, body), 0, "job_1", (), RESPONSE_ID)
            assert isinstance(seen, Seen), (read, body)
            assert seen.outcome == "completed"
    failed = response(status="failed", error={"code": "server_error", "message": "no"})
    seen = read_poll(ProviderAnswer(status, {}, failed), 0, "job_1", (), RESPONSE_ID)
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.code) == ("failed", "server_error")


@pytest.mark.parametrize(
    "body",
    [
        {"id": RESPONSE_ID, "object": "response", "status": "lost"}, {"id": RESPONSE_ID, "status": "completed"},
        completed(id="another", metadata={}), OTHERS[1], {"status": "completed", "object": "response"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [404, 500])
def test_what_is_not_surely_the_response_is_none_with_the_status_of_an_error(status: int, body: dict[str, Any]) -> None:
    assert not isinstance(read_poll(ProviderAnswer(status, {}, body), 0, "job_1", (), RESPONSE_ID), Seen)


def test_a_create_that_is_answered_with_the_response_of_another_job_is_none_of_ours() -> None:
    """A cache on the way, or a mix-up. Nothing of the other job's response is passed on."""
    unknown = read_create(ProviderAnswer(200, {}, OTHERS[1]), 0, (), "job_1", 1)
    assert isinstance(unknown, Unknown)
    assert (unknown.reason, unknown.alarm, unknown.taken) == ("another_job", True, False)
