"""The codec turns any bytes into a message or a reason. Its messages can be written and read again."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from schemas.codec import DEPTH_MAX, PoisonError, canonical, decode, encode, load_object, sha256_hex
from schemas.commands import POLL_COMMAND, SUBMISSION
from schemas.dead_letters import DEAD_LETTER
from schemas.jobs import JOB_FACT
from schemas.requests import REQUEST
from schemas.responses import RESPONSE_FACT
from schemas.results import RESULT
from streams.fold import job, rows
from tests.support import builders
from tests.unit.schemas.messages import ADAPTERS, MESSAGES

ALL: tuple[TypeAdapter[Any], ...] = (JOB_FACT, RESPONSE_FACT, SUBMISSION, POLL_COMMAND, RESULT, DEAD_LETTER, REQUEST)
EXAMPLES = settings(max_examples=200, deadline=None, database=None, derandomize=True)
FACT = encode(builders.job_timer(5))


def poison(adapter: TypeAdapter[Any], value: bytes | None) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        decode(adapter, value)
    return caught.value


def nested(levels: int) -> bytes:
    """A JobSubmitted that is nested `levels` deep: the record, its body, the value."""
    lists = levels - 2
    raw = encode(builders.submitted(request={"kind": "inline", "value": "HERE"}))
    return raw.replace(b'"HERE"', b"[" * lists + b"]" * lists)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{type(message).__name__}")
def test_every_message_comes_back_from_its_bytes(message: Any) -> None:
    adapter = ADAPTERS[message.topic]
    again = decode(adapter, encode(message))
    assert (type(again), again) == (type(message), message)
    assert encode(again) == encode(message)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{type(message).__name__}")
def test_a_field_that_a_newer_writer_added_is_ignored(message: Any) -> None:
    raw = {**orjson.loads(encode(message)), "added_later": {"deep": [1]}}
    assert decode(ADAPTERS[message.topic], canonical(raw)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{type(message).__name__}")
def test_a_message_is_frozen(message: Any) -> None:
    with pytest.raises(ValueError, match="frozen"):
        message.id = "another"


def test_equal_values_are_equal_bytes_whatever_the_order_of_their_keys() -> None:
    assert canonical({"b": {"y": 1, "x": 2}, "a": []}) == canonical({"a": [], "b": {"x": 2, "y": 1}})
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()


def test_a_field_that_is_none_is_left_out() -> None:
    assert b"reason" not in encode(builders.cancel_requested(1))
    assert b'"reason":"tired"' in encode(builders.cancel_requested(1, reason="tired"))


def test_a_none_within_a_body_is_kept() -> None:
    message = builders.submitted(request={"kind": "inline", "value": {"metadata": None}})
    assert decode(JOB_FACT, encode(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: f"{type(message).__name__}")
def test_a_body_that_is_not_copied_has_the_bytes_of_one_that_is(message: Any) -> None:
    assert encode(message) == canonical(message.model_dump(mode="json", exclude_none=True))


def test_the_digest_is_that_of_the_bytes() -> None:
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_value"),
        (b"", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"NaN", "not_json"),
        (b'{"at_ms":Infinity}', "not_json"),
        (b'{"id":"\\ud800"}', "not_json"),
        (b"{} {}", "not_json"),
        (b"[" * 5000, "not_json"),
        (b"[" * 2000 + b"]" * 2000, "not_json"),
        (b"17", "invalid"),
        (b"null", "invalid"),
        (b"[]", "invalid"),
        (b'"text"', "invalid"),
        (b"{}", "unknown_type"),
        (b'{"type":null}', "unknown_type"),
        (b'{"type":["timer_fired"]}', "unknown_type"),
        (b'{"type":"job_exploded","id":"x","at_ms":1,"job_id":"j"}', "unknown_type"),
        (FACT.replace(b'"v":1', b'"v":2'), "unknown_version"),
        (FACT.replace(b'"v":1', b'"v":"1"'), "unknown_version"),
        (FACT.replace(b'"v":1', b'"v":null'), "unknown_version"),
        (FACT.replace(b'"v":1', b'"v":' + b"9" * 5000), "not_json"),
        (FACT.replace(b'"at_ms":5', b'"at_ms":-1'), "invalid"),
        (FACT.replace(b'"at_ms":5', b'"at_ms":1e25'), "invalid"),
        (FACT.replace(b'"at_ms":5', b'"at_ms":123456789012345678901234567890'), "invalid"),
        (FACT.replace(b'"at_ms":5', b'"at_ms":1.5'), "invalid"),
        (FACT.replace(b'"job_1"', b'"job 1"'), "invalid"),
        (FACT.replace(b'"job_1"', b'"' + b"j" * 129 + b'"'), "invalid"),
        (FACT.replace(b'"job_1"', b'"job_1\\n"'), "invalid"),
        (FACT.replace(b'"id":"job_1/timer/5"', b'"id":""'), "invalid"),
    ],
)
def test_a_record_that_cannot_be_taken_says_why(value: bytes | None, reason: str) -> None:
    assert poison(JOB_FACT, value).reason == reason


def test_a_version_that_is_a_deep_list_is_refused_without_an_error_of_another_kind() -> None:
    assert poison(JOB_FACT, b'{"v":' + b"[" * 1000 + b"]" * 1000 + b"}").reason == "invalid"


def test_a_record_as_deep_as_allowed_is_read_folded_and_read_back_from_its_row() -> None:
    event = decode(JOB_FACT, nested(DEPTH_MAX))
    state = job.step(job.Absent(), event).state
    assert rows.decode_job_state(rows.encode_job_state(state)) == state


@pytest.mark.parametrize("levels", [DEPTH_MAX + 1, 199, 202, 254, 300, 1000])
def test_a_deeper_record_is_refused(levels: int) -> None:
    error = poison(JOB_FACT, nested(levels))
    assert (error.reason, error.detail) == ("invalid", f"nested deeper than {DEPTH_MAX} levels")


def test_a_wide_record_is_not_a_deep_one() -> None:
    wide = builders.submitted(request={"kind": "inline", "value": [[{}] for _ in range(500)]})
    assert decode(JOB_FACT, encode(wide)) == wide


def test_the_detail_is_shortened() -> None:
    assert len(PoisonError("invalid", "x" * 5_000).detail) == 500
    error = poison(JOB_FACT, b'{"type":"' + b"x" * 5000 + b'"}')
    assert "xxx" not in error.detail, "what is no name of a kind is not quoted"


def test_load_object_gives_the_object() -> None:
    assert load_object(b'{"a":[1,2.5,null,true]}') == {"a": [1, 2.5, None, True]}


TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)
NAMES = st.sampled_from(sorted({name for message in MESSAGES for name in type(message).model_fields}))
TYPES = st.sampled_from(sorted({message.model_dump()["type"] for message in MESSAGES} | {"submit", "cancel"}))


def as_json(value: Any) -> bytes:
    """Python's own encoder, which writes NaN, Infinity, lone surrogates and integers of any size."""
    import json  # noqa: PLC0415 - only here, because it is the careless one

    return json.dumps(value).encode()


@st.composite
def nearly_messages(draw: st.DrawFn) -> bytes:
    """The bytes of a message with some fields replaced, dropped or added."""
    raw = orjson.loads(encode(draw(st.sampled_from(MESSAGES))))
    for name, value in draw(st.dictionaries(NAMES, JSON, max_size=3)).items():
        raw[name] = value
    for name in draw(st.lists(st.sampled_from(sorted(raw)), max_size=2)):
        raw.pop(name, None)
    return as_json(raw)


@EXAMPLES
@given(
    value=st.one_of(
        st.binary(max_size=60),
        JSON.map(as_json),
        nearly_messages(),
        st.tuples(TYPES, st.dictionaries(NAMES, JSON, max_size=5)).map(
            lambda made: as_json({**made[1], "type": made[0]})
        ),
        st.integers(0, 1500).map(lambda n: b'{"v":' + b'{"a":' * n + b"1" + b"}" * n + b"}"),
    )
)
@example(value=b'{"type":"timer_fired","v":1e999}')
@example(value=b'{"type":"\\udfff"}')
@example(value=as_json({"type": "submit", "request": {"model": "m", "metadata": {"\ud800": "x"}}}))
def test_decode_is_total_and_its_result_can_be_written_and_read_again(value: bytes) -> None:
    for adapter in ALL:
        with contextlib.suppress(PoisonError):  # Any other error fails the test.
            message = decode(adapter, value)
            assert _again(adapter, message) == message


def _again(adapter: TypeAdapter[Any], message: Any) -> Any:
    """Not inside the suppression: a message that was read must be readable again."""
    try:
        return decode(adapter, encode(message))
    except PoisonError as error:
        return error
