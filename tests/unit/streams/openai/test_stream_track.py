"""Which events of a provider's stream are published, and how its bytes become events."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.openai.sse import EventReader, EventTooLargeError
from streams.openai.stream_track import Track
from streams.provider import Dropped, OpenAgain, StreamEnded, Told, TooMuch

TEXT = "response.output_text.delta"


def delta(number: int) -> dict[str, Any]:
    return {"type": TEXT, "sequence_number": number, "delta": f"d{number}"}


def track(event_bytes_max: int = 1_000, response_bytes_max: int = 10_000) -> Track:
    return Track(event_bytes_max, response_bytes_max)


def test_events_are_published_in_order_and_without_repeats() -> None:
    told = track()
    words = [told.take(delta(number), 10) for number in (0, 1, 1, 0, 2)]
    assert words == [
        Told(delta(0), 10), Told(delta(1), 10), Dropped("repeat"), Dropped("repeat"), Told(delta(2), 10)
    ]  # fmt: skip
    assert told.last == 2


def test_a_gap_is_disorder_at_first_and_accepted_the_second_time() -> None:
    told = track()
    told.take(delta(0), 1)
    assert told.take(delta(2), 1) == OpenAgain("disorder")
    assert told.take(delta(2), 1) == Told(delta(2), 1)
    assert told.take(delta(1), 1) == Dropped("repeat")
    assert told.take(delta(5), 1) == Told(delta(5), 1), "and is not doubted any more"


def test_disorder_that_mends_itself_loses_nothing() -> None:
    told = track()
    told.take(delta(0), 1)
    assert told.take(delta(2), 1) == OpenAgain("disorder")
    assert [told.take(delta(number), 1) for number in (1, 2)] == [Told(delta(1), 1), Told(delta(2), 1)]


def test_the_first_events_are_published_without_their_response() -> None:
    event = {"type": "response.in_progress", "sequence_number": 0, "response": {"id": "resp_1", "instructions": "?"}}
    assert track(event_bytes_max=10).take(event, 5_000) == Told({"type": event["type"], "sequence_number": 0}, 0)


@pytest.mark.parametrize("kind", ["completed", "failed", "incomplete", "cancelled"])
def test_a_terminal_event_is_a_number_and_nothing_more(kind: str) -> None:
    event = {"type": f"response.{kind}", "sequence_number": 0, "response": {"id": "resp_1"}}
    assert track().take(event, 1 << 30) == StreamEnded(0)


@pytest.mark.parametrize(
    "event",
    [
        None, [], "text", {}, {"type": TEXT}, {"sequence_number": 1}, {"type": 5, "sequence_number": 1},
        *({"type": TEXT, "sequence_number": number} for number in (-1, True, "1", 1.0, None, 1 << 60)),
    ],
)  # fmt: skip
def test_an_invalid_event_is_dropped(event: Any) -> None:
    assert track().take(event, 1) == Dropped("unreadable")


def test_an_error_event_is_not_the_responses() -> None:
    assert track().take({"type": "error", "message": "Sorry.", "sequence_number": 0}, 1) == OpenAgain("error_event")


def test_an_event_and_a_response_have_their_bounds() -> None:
    assert isinstance(track(event_bytes_max=10).take(delta(0), 10), Told)
    assert track(event_bytes_max=10).take(delta(0), 11) == TooMuch("event_too_large")
    told = track(response_bytes_max=20)
    words = [told.take(delta(number), 10) for number in range(3)]
    assert words[2] == TooMuch("response_too_large")
    assert told.last == 1


@given(st.lists(st.integers(0, 12), max_size=40))
def test_published_numbers_rise_whatever_the_stream(numbers: list[int]) -> None:
    told = track()
    words = [told.take(delta(number), 1) for number in numbers]
    seen = [word.event["sequence_number"] for word in words if isinstance(word, Told)]
    assert seen == sorted(set(seen))


STREAM = b"event: x\r\ndata: {}\r\n\r\n: here\n\ndata: one\ndata:two\nid: 7\n\n\n\ndata: last\n\ndata: cut off"
DATA = [b"{}", b"one\ntwo", b"last"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_read_however_their_bytes_are_cut(cuts: list[int]) -> None:
    reader, edges = EventReader(1_000), [0, *sorted(cuts), len(STREAM)]
    found = [data for start, end in itertools.pairwise(edges) for data in reader.feed(STREAM[start:end])]
    assert found == DATA


def test_an_event_beyond_the_bound_is_not_held() -> None:
    assert EventReader(10).feed(b"data:0123456789\n\n") == [b"0123456789"]
    for chunks in ([b"data:0123456789A\n"], [b"data:01234", b"56789A"], [b"data:01234\n", b"data:56789A\n"]):
        reader = EventReader(10)
        with pytest.raises(EventTooLargeError):
            [reader.feed(chunk) for chunk in chunks]
