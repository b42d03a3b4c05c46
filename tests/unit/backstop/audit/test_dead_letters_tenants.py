"""A dead letter of a tenant's own requests topic."""

from backstop.audit.dead_letters import DeadLetterEntry, plan_retry, reads_now
from schemas.dead_letters import DeadLetter, Origin

PREFIX = "t."


def dead_letter_of(topic: str) -> DeadLetterEntry:
    letter = DeadLetter(
        id="x", at_ms=1, component="intake", reason="invalid", detail="", key_base64="ag==", value_base64="e30=",
        origin=Origin(topic=topic, partition=0, offset=0, timestamp_ms=0),
    )  # fmt: skip
    return DeadLetterEntry(letter, "t.dead-letters:0:0")


def test_it_is_read_as_a_request_and_goes_back_to_the_tenants_topic() -> None:
    letter = dead_letter_of("t.requests.acme")
    assert letter.origin_topic(PREFIX) == "requests"
    assert reads_now(letter, PREFIX).startswith("no: ")
    can, cannot = plan_retry([letter], PREFIX)
    assert [item.topic for item in can] == ["t.requests.acme"]
    assert cannot == []


def test_what_came_from_results_is_still_not_put_back() -> None:
    can, cannot = plan_retry([dead_letter_of("t.results")], PREFIX)
    assert (can, len(cannot)) == ([], 1)
