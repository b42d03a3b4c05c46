"""Answers as JSON, or not: nothing that a server sends makes a call raise."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import canonical
from streams.openai.answers import ProviderAnswer, read_create
from streams.openai.foreign_json import NOT_JSON, beginning, parse
from streams.provider import Unknown
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.openai_calls import create_against

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"queue is full, try again", "queue is full, try again"),
        (b"\xff" + b"<p>" * 1_000, ("\ufffd" + "<p>" * 1_000)[:500]),
        ("\u00e9".encode() * 2_000, "\u00e9" * 500),
        (b"", ""),
        (b"{}", ""),
    ],
)
def test_the_beginning_of_an_answer_that_is_no_json_is_kept(body: bytes, text: str) -> None:
    for status in (200, 400, 500):
        reply, _ = create_against(server.answer(status, body, content_type="text/plain"))
        assert isinstance(reply, ProviderAnswer)
        assert reply.text == text


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'{"a": "\\ud83d"}', {"a": "\ufffd"}),
        (b'{"a": NaN}', {"a": None}),
        (b'{"a": NaN, "b": 123456789012345678901234567890}', {"a": None, "b": 1.2345678901234568e29}),
        (b"<html>", NOT_JSON),
        (b"", NOT_JSON),
        (b"\xff\xfe", NOT_JSON),
        (b'{"a": ', NOT_JSON),
    ],
)
def test_json_is_read_generously(content: bytes, value: Any) -> None:
    assert parse(content) == value


@given(st.binary() | st.text().map(lambda text: f'{{"a": NaN, "b": "{text}\\ud83d"}}'.encode("utf-8", "replace")))
def test_parsed_json_can_be_written(content: bytes) -> None:
    value = parse(content)
    if value is not NOT_JSON:
        canonical(value)


def test_nesting_without_end_is_no_json() -> None:
    assert parse(b"[" * 100_000) is NOT_JSON
    assert isinstance(read_create(ProviderAnswer(200, {}, parse(b"[" * 100_000 + b"]" * 100_000)), 0), Unknown)


@pytest.mark.parametrize(
    ("content", "members"),
    [
        (b'{"id": "r", "status": "queued", "output": [{"x": "yy', {"id": "r", "status": "queued"}),
        (b'\xef\xbb\xbf{"id": "r", ', {}),
        (b' {"id" : "r" , "n": 12', {"id": "r"}),
        (b'{"a": {"b": [1]}, "c": nul', {"a": {"b": [1]}}),
        (b'{"a": 1, 2: 3, ', {"a": 1}),
        (b'{"a": "\\ud800", ', {"a": "\ufffd"}),
        (b'{"a": ' + b"[" * 50_000, {}),
        (b"[1, ", {}),
        (b"", {}),
    ],
)
def test_the_beginning_of_an_object_has_its_whole_members(content: bytes, members: dict[str, Any]) -> None:
    assert beginning(content) == members


@given(st.binary(max_size=60), st.integers(0, 60))
def test_a_beginning_never_raises(content: bytes, at: int) -> None:
    beginning(b'{"a": 1, "b": ' + content)
    beginning((b'{"id": "r", "x": [1, {"y": null}], "z": "t"}' + content)[:at])


def test_events_inside_events_are_not_read_and_cost_no_copies() -> None:
    nested = b"data:" * 1_000 + b"x" * 200_000
    tracemalloc.start()
    try:
        assert parse(nested) is NOT_JSON
        assert tracemalloc.get_traced_memory()[1] < 20 * len(nested)
    finally:
        tracemalloc.stop()
    assert parse(b'data: data: {"id": "resp_1", "status": "queued"}\n\n') is NOT_JSON
    assert parse(b'data: {"id": "resp_1", "status": "queued"}\n\n') == {"id": "resp_1", "status": "queued"}
