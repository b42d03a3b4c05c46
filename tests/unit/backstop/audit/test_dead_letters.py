"""Dead letters, the decisions about them, and what a retry publishes."""

from dataclasses import replace

import pytest

from backstop.audit.dead_letters import Selection, collect, plan_retry, raw_record, reads_now, resolved
from backstop.runtime.kafka.dead_letters import VALUE_BYTES_MAX, dead_letter
from backstop.runtime.records import Record
from schemas.codec import PoisonError, encode
from schemas.dead_letters import DeadLetter, DeadReason
from schemas.unreadable import Unreadable
from tests.support import builders as b

PREFIX = "t."


def letter(
    offset: int = 7, topic: str = "requests", value: bytes | None = b"not json", reason: DeadReason = "not_json",
    component: str = "intake", key: bytes | None = b"k", headers: tuple[tuple[str, bytes], ...] = (("ce_id", b"x"),),
) -> DeadLetter:  # fmt: skip
    record = Record(f"{PREFIX}{topic}", 1, offset, b.T0, key, value, headers)
    return dead_letter(record, PoisonError(reason, "why"), component, b.T0 + offset)


def on_topic(*messages: object) -> list[Record]:
    return [
        Record("dead-letters", 0, n, b.T0, b"k", value)
        for n, value in enumerate(
            message if isinstance(message, bytes) else encode(message)  # type: ignore[arg-type]
            for message in messages
        )
    ]


def from_another_prefix() -> DeadLetter:
    origin = letter().origin
    assert origin is not None
    return letter().model_copy(update={"origin": origin.model_copy(update={"topic": "other.jobs"})})


def test_a_record_that_two_components_refuse_is_one_dead_letter_that_names_both() -> None:
    found = collect(on_topic(letter(9), letter(7), letter(9, component="readmodel"), letter(9), b"{}", b"\xff"))
    assert [(one.id, one.components, one.status) for one in found.letters] == [
        ("t.requests:1:7", ["intake"], "open"), ("t.requests:1:9", ["intake", "readmodel"], "open")
    ]  # fmt: skip
    assert found.unreadable == 2


def test_a_decision_is_a_record_and_the_last_one_counts() -> None:
    (one,) = collect(on_topic(letter())).letters
    retried = resolved(one, "retried", "ann", "fixed", 5)
    (again,) = collect(on_topic(letter(), retried)).letters
    dropped = resolved(again, "dropped", "bob", "no use", 6)
    assert (retried.id, dropped.id) == ("t.requests:1:7/resolved/1", "t.requests:1:7/resolved/2")
    assert retried.key == letter().key
    (last,) = collect(on_topic(letter(), retried, dropped)).letters
    assert (last.status, last.open, [decision.by for decision in last.decisions]) == ("dropped", False, ["ann", "bob"])


def test_a_decision_names_the_key_of_its_request() -> None:
    (one,) = collect(on_topic(letter())).letters
    by_key, by_hand = resolved(one, "dropped", "Ann", "", 5, "0123456789ab"), resolved(one, "dropped", "Ann", "", 5)
    assert (by_key.author, by_hand.author) == ("Ann (key 0123456789ab)", "Ann")


def test_filters_take_what_they_name() -> None:
    open_one, of_jobs, late, decided = collect(
        on_topic(letter(1), letter(2, topic="jobs", reason="wrong_key"), letter(50), letter(60))
    ).letters
    decided = replace(decided, decisions=[resolved(decided, "dropped", "ann", "", 1)])
    everyone = [open_one, of_jobs, late, decided]

    def taken(wanted: Selection) -> list[int]:
        return [everyone.index(one) for one in everyone if wanted.takes(one, PREFIX)]

    assert taken(Selection()) == [0, 1, 2]
    assert taken(Selection(resolved=True)) == [0, 1, 2, 3]
    assert taken(Selection(topic="jobs")) == [1]
    assert taken(Selection(reason="not_json")) == [0, 2]
    assert taken(Selection(since_ms=b.T0 + 50)) == [2]


def test_a_retry_puts_the_record_back_as_it_was_and_says_of_what() -> None:
    found = collect(on_topic(letter(headers=(("ce_id", b"x"), ("backstop_retry_of", b"older")))))
    (item,), cannot = plan_retry(found.letters, PREFIX)
    assert cannot == []
    assert (item.topic, item.key, item.value) == ("t.requests", b"k", b"not json")
    assert item.headers == (("ce_id", b"x"), ("backstop_retry_of", b"t.requests:1:7"))


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        (letter(topic="results"), "nothing is put back on results"),
        (letter().model_copy(update={"origin": None}), "it came from no topic"),
        (letter(value=b"x" * (VALUE_BYTES_MAX + 1)), "its value was truncated"),
        (from_another_prefix(), "put back on None"),
    ],
)
def test_a_dead_letter_that_cannot_be_retried_is_listed_with_its_reason(planted: DeadLetter, why: str) -> None:
    can, ((_, told),) = plan_retry(collect(on_topic(planted)).letters, PREFIX)
    assert can == []
    assert why in told


def test_it_is_told_whether_this_release_can_read_the_record() -> None:
    good = encode(b.submitted())
    cases = {
        "yes": letter(topic="jobs", value=good, key=b.JOB.encode()),
        "no: not_json": letter(topic="jobs"),
        "no: wrong_key": letter(topic="jobs", value=good),
        "it came from no topic": letter().model_copy(update={"origin": None}),
    }
    for wanted, planted in cases.items():
        (one,) = collect(on_topic(planted)).letters
        assert reads_now(one, PREFIX).startswith(wanted)


def test_bytes_come_back_as_they_were() -> None:
    raw = raw_record(letter(value=b"\x00\xff", key=None))
    assert (raw.key, raw.value, raw.headers, raw.truncated) == (None, b"\x00\xff", (("ce_id", b"x"),), False)
    assert raw_record(letter(value=None)).value is None


def test_an_unreadable_record_is_put_back_only_if_its_bytes_are_known() -> None:
    batch = letter(1, reason="unreadable", key=None, value=Unreadable.of("unreadable", "offsets 1 to 5: why"))
    one = letter(2, reason="unreadable", value=Unreadable.of("unreadable", "a header", b"{}"))
    can, cannot = plan_retry(collect(on_topic(batch, one)).letters, PREFIX)
    assert [(item.letter.id, item.value) for item in can] == [("t.requests:1:2", b"{}")]
    assert [(left.id, why.split(",")[0]) for left, why in cannot] == [("t.requests:1:1", "its bytes could not be read")]
