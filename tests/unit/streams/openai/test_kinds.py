"""Kinds of answers that gateways and compatible servers give, each over its whole kind."""

import gzip
import json
import string
import zlib
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import RESPONSE_ID_CHARS_MAX
from streams.openai.answers import ProviderAnswer, read_create, read_delete, read_poll
from streams.openai.causes import CAUSE_OF_CODE
from streams.openai.foreign_json import parse
from streams.openai.observations import see
from streams.openai.unpacking import Unpacker, packing_of
from streams.openai.waits import retry_after_ms
from streams.provider import Accepted, AskAgain, Deleted, Missing, Refused, Rejected, Seen, Tokens, Unknown
from tests.unit.streams.policy.replies import NOW_MS, error
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, completed, response
from tests.unit.streams.workers.openai_calls import create_against

PRINTABLE: Final = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
ANY_ID: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.text(max_size=40),
    st.text(alphabet=PRINTABLE, min_size=RESPONSE_ID_CHARS_MAX - 1, max_size=RESPONSE_ID_CHARS_MAX + 1),
    st.lists(st.text(max_size=5), max_size=2),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)


@given(ANY_ID, st.sampled_from(["queued", "in_progress", "pending", "of tomorrow"]))
def test_a_create_that_was_taken_is_never_repeated_whatever_its_id_is(told: Any, status: str) -> None:
    answer = read_create(ProviderAnswer(200, {}, response(id=told, status=status)), NOW_MS)
    usable = isinstance(told, str) and told.isascii() and told.isprintable() and told == told.strip(" ") != ""
    if usable and len(told) <= RESPONSE_ID_CHARS_MAX:
        assert isinstance(answer, Accepted)
        assert (answer.response_id, answer.end) == (told, None)
    elif told in (None, ""):  # A webhook may name it.
        assert isinstance(answer, Unknown)
        assert (answer.reason, answer.alarm, answer.taken) == ("no_usable_id: http_200", True, True)
    else:
        assert isinstance(answer, Accepted)
        assert answer.end is not None
        assert (answer.end.outcome, answer.end.cause, answer.end.code) == ("failed", "never", "unusable_id")
        assert answer.end.said_by == "backstop"


@given(
    st.text(alphabet=PRINTABLE, min_size=1, max_size=60).filter(lambda text: text == text.strip()),
    st.sampled_from(["location", "operation-location", "content-location"]),
    st.sampled_from(["/v1/responses/", "https://host:8443/openai/v1/responses/", "responses/"]),
    st.sampled_from(["", "/", "?api-version=1", "#x"]),
    st.sampled_from([b"", b"{}", b"null", b"<html>taken</html>", b'{"status": "queued"}']),
    st.sampled_from([200, 201, 202, 204, 302, 303]),
)
def test_an_address_in_a_header_names_the_response(
    told: str, name: str, before: str, behind: str, body: bytes, status: int
) -> None:  # fmt: skip
    headers = {name: f"{before}{quote(told, safe='')}{behind}"}
    assert read_create(ProviderAnswer(status, headers, parse(body)), 0) == Accepted(told, status="unknown")


@pytest.mark.parametrize(
    "address", ["", "/", "/status/17", "https://[", "/v1/responses/", "/v1/responses/%C3%A9", "17"]
)
def test_another_address_names_none_and_a_202_was_taken(address: str) -> None:
    for status, taken in ((202, True), (200, False)):
        answer = read_create(ProviderAnswer(status, {"location": address}, text="<html>"), 0)
        assert isinstance(answer, Unknown)
        assert (answer.taken, answer.alarm) == (taken, True)


def _bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "not": lambda data: data,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "two members": lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]),
    "behind it": lambda data: gzip.compress(data) + b"\0 padding",
}
TEXT: Final = json.dumps(response()).encode()


@given(
    st.sampled_from([*PACKED]),
    st.sampled_from(["", "gzip", "x-gzip", "deflate", "br", "identity", "utf-8", "gzip, gzip"]),
    st.integers(min_value=2, max_value=200),
)
def test_an_answer_is_unpacked_whatever_is_announced(packed: str, announced: str, size: int) -> None:
    sent = PACKED[packed](TEXT)
    packing = packing_of(sent[:size], announced)
    assert (packing is None) == (packed == "not")
    if packing is not None:
        unpacker = Unpacker(packing)
        pieces = (sent[at : at + size] for at in range(0, len(sent), size))
        assert b"".join(part for piece in pieces for part in unpacker.feed(piece)) == TEXT


@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"\x1f\x8b", b"\x78\x9c", b""]), st.booleans())
def test_what_only_looks_packed_raises_nothing(rest: bytes, begins: bytes, deflate: bool) -> None:
    sent = begins + rest
    packing = packing_of(sent, "deflate" if deflate else "")
    assert packing is None or all(Unpacker(packing).feed(sent))


@pytest.mark.parametrize("announced", ["", "gzip", "deflate"])
@pytest.mark.parametrize("packed", ["not", "gzip", "zlib"])
@pytest.mark.usefixtures("no_proxy")
def test_a_packed_acceptance_is_understood_over_the_wire(packed: str, announced: str) -> None:
    headers = {"content_encoding": announced} if announced else {}
    reply, state = create_against(server.answer(200, PACKED[packed](TEXT), **headers))
    assert read_create(reply, 0) == Accepted(RESPONSE_ID, status="queued")
    assert state.posts == 1


def test_deflate_without_a_head_is_understood_where_it_is_announced() -> None:
    packing = packing_of(_bare(TEXT)[:2], "deflate")
    assert packing is not None
    assert b"".join(Unpacker(packing).feed(_bare(TEXT))) == TEXT


@pytest.mark.parametrize(
    "code", sorted(code for code, cause in CAUSE_OF_CODE.items() if cause not in ("faulty", "odd"))
)
def test_a_code_means_the_same_with_any_status(code: str) -> None:
    known = read_create(error(400, code), NOW_MS)
    assert isinstance(known, Rejected)
    for status in (408, 499, 500, 502, 503, 520, 529):
        answer = read_create(error(status, code), NOW_MS)
        assert isinstance(answer, Rejected), (status, code)
        assert (answer.cause, answer.code) == (known.cause, code)


@pytest.mark.parametrize("answer", [
    error(500, None, "content_policy_violation"), error(500, "500", "ContentPolicyViolationError"),
    error(500, "500", None, "litellm.ContentPolicyViolationError: triggering the content management policy."),
    error(500, None, None, "This model's maximum context length is 8192 tokens"),
    ProviderAnswer(500, {}, {"detail": {"code": "cyber_policy_violation"}}),
    ProviderAnswer(500, {}, {"code": "bio_policy"}),
])  # fmt: skip
def test_what_is_forbidden_is_tried_once_with_a_500_too(answer: ProviderAnswer) -> None:
    refused = read_create(answer, NOW_MS)
    assert isinstance(refused, Rejected)
    assert refused.cause == "never"


@pytest.mark.parametrize("answer", [
    error(500, "server_error"), error(500, None, "invalid_request_error", "bad"),
    error(500, "500", "InternalServerError"),
    error(500, None, "server_error", "Failed to reach safety system"), error(500, "invalid_state", "server_error"),
    error(500, "upstream_not_found"), error(500, "missing_worker"), error(408, "backend_not_found"),
    ProviderAnswer(500, text="<html><title>content policy</title>"), error(500, None, None, "try again later"),
])  # fmt: skip
def test_other_500s_prove_nothing(answer: ProviderAnswer) -> None:
    assert isinstance(read_create(answer, NOW_MS), Unknown)


PASSING: Final = frozenset({401, 402, 403, 407, 408, 409, 423, 424, 425, 429, 499})


@given(
    st.one_of(st.integers(min_value=400, max_value=499), st.just(501)),
    st.sampled_from([b"", b"<title>no</title>", b"[]", b'"no"', b'{"detail": "no"}', b'{"error": {"message": "no"}}']),
)
def test_a_poll_that_is_refused_in_any_form_counts_as_missing_with_its_words(status: int, body: bytes) -> None:
    read = read_poll(ProviderAnswer(status, {}, parse(body), text=body.decode()), NOW_MS)
    if status in PASSING:
        assert isinstance(read, AskAgain | Refused)
    elif status in (404, 410) and body.startswith(b"{"):
        assert read == Missing()
    else:
        assert isinstance(read, Missing)
        assert read.code == f"http_{status}"
        assert read.message in ("", "no", "[]")


@pytest.mark.parametrize(("status", "body", "deletes"), [
    (200, b'{"id": "resp_1", "deleted": true}', True), (200, b"{}", True), (204, b"", True),
    (404, b'{"error": {"code": "not_found", "message": "no"}}', True), (410, b"{}", True),
    (200, b'{"deleted": false}', False), (200, b'{"error": {"code": "invalid_value", "message": "no"}}', False),
    (200, b'{"error": "try again"}', False), (200, b"<title>log in</title>", False), (202, b"", False),
    (404, b"<title>no route</title>", False), (405, b"", False), (405, b'{"detail": "no"}', False),
    (501, b"{}", False), (400, b'{"error": {"code": "invalid_value", "message": "no"}}', False),
])  # fmt: skip
def test_a_response_counts_as_deleted_only_where_the_answer_says_so(status: int, body: bytes, deletes: bool) -> None:
    read = read_delete(ProviderAnswer(status, {}, parse(body), text=body.decode()), NOW_MS)
    assert isinstance(read, Deleted if deletes else AskAgain)


@pytest.mark.parametrize(("body", "cause"), [
    ({"errors": [{"code": "slow_down", "message": "x"}]}, "overloaded"),
    ({"success": False, "errors": [{"code": 10_000, "message": "x"}]}, "faulty"),
    ({"object": "error", "message": "x", "type": "invalid_request_error", "code": 400}, "never"),
    ({"error": [{"code": "content_filter", "message": "x"}]}, "never"),
])  # fmt: skip
def test_an_error_in_a_200_is_that_error_in_each_form(body: Any, cause: str) -> None:
    refused = read_create(ProviderAnswer(200, {}, body), NOW_MS)
    assert isinstance(refused, Rejected)
    assert (refused.cause, refused.message) == (cause, "x")


USED = {"input_tokens": 3, "output_tokens": 4}


def test_a_response_that_failed_without_an_id_was_accepted_and_not_refused() -> None:
    body = response(id="é", status="failed", error={"code": "server_error", "message": "x"}, usage=USED)
    accepted = read_create(ProviderAnswer(200, {}, body), NOW_MS)
    assert isinstance(accepted, Accepted)
    assert accepted.end is not None
    assert (accepted.end.outcome, accepted.end.code, accepted.end.usage) == (
        "failed",
        "server_error",
        Tokens(3, 4, 7),
    )


@given(st.text(alphabet=string.printable, max_size=30))
def test_a_503_with_any_time_to_come_back_is_a_refusal(value: str) -> None:
    refused = read_create(ProviderAnswer(503, {"retry-after": value}), NOW_MS)
    assert isinstance(refused, Rejected)
    assert (refused.cause, refused.wait_ms >= 0) == ("overloaded", True)


@pytest.mark.parametrize(("value", "wait_ms"), [
    ("PT30S", 30_000), ("PT1M", 60_000), ("pt1h", 3_600_000), ("30; comment", 30_000), ("30;", 30_000), ("PT", 0),
    ("-5", 0), ("inf", 0), ("nan", 0), ("soon", 0), ("2.5", 2_500), ("30,", 30_000), ('"30"', 30_000),
])  # fmt: skip
def test_a_wait_in_a_header_is_read_in_the_forms_that_servers_invent(value: str, wait_ms: int) -> None:
    assert retry_after_ms({"retry-after": value}, NOW_MS) == wait_ms


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-8-sig"])
def test_json_is_read_in_any_unicode(coding: str) -> None:
    assert parse(json.dumps(response()).encode(coding)) == response()


def test_a_number_that_python_refuses_to_read_is_absent() -> None:
    read = parse(json.dumps(response(created_at=7)).encode().replace(b": 7,", b": " + b"9" * 5_000 + b","))
    assert (read["id"], read["created_at"]) == (RESPONSE_ID, None)


@pytest.mark.parametrize("details", [
    "max_output_tokens", {"reason": "max_output_tokens"}, [{"reason": "max_output_tokens"}], ["max_output_tokens"],
])  # fmt: skip
def test_a_reason_of_incompleteness_is_read_in_each_form(details: Any) -> None:
    seen = see({**completed(), "status": "incomplete", "incomplete_details": details}, {})
    assert isinstance(seen, Seen)
    assert (seen.outcome, seen.code) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize("usage", [
    {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123}, {"input_tokens": "36", "output_tokens": "87"},
    {"prompt_tokens": 36, "completion_tokens": 87, "total_tokens": 123.0},
])  # fmt: skip
def test_tokens_are_counted_under_older_names_and_in_texts(usage: Any) -> None:
    seen = see({**completed(), "usage": usage}, {})
    assert isinstance(seen, Seen)
    assert seen.usage == Tokens(input_tokens=36, output_tokens=87, total_tokens=123)


@pytest.mark.parametrize(("answer", "wide"), [
    (error(401, "invalid_api_key"), True), (ProviderAnswer(401), True), (error(429, "insufficient_quota"), True),
    (error(429, "billing_not_active"), True), (ProviderAnswer(402), True), (ProviderAnswer(301), True),
    (error(403, "unsupported_country_region_territory"), True),
    (error(403, None, None, "Your account is not active"), True),
    (error(500, "insufficient_quota"), True), (error(400, None, None, "Your credit balance is too low"), True),
    (error(403, "model_not_found"), False), (error(403, "of_tomorrow"), False),
    (error(403, "permission_denied"), False),
    (error(403, None, "permission_error"), False), (error(401, "model_not_found"), False),
    (error(403, None, None, "Your organization must be verified to use this model"), False),
])  # fmt: skip
def test_a_condition_of_the_account_is_of_all_models_unless_it_may_be_of_one(
    answer: ProviderAnswer, wide: bool
) -> None:
    refused = read_create(answer, NOW_MS)
    assert isinstance(refused, Rejected)
    assert (refused.cause, refused.account_wide) == ("account", wide)
