"""Each message has a place in the one table of topics, and a sample in the round trip."""

from schemas.base import JobMessage, Message, ResponseMessage
from schemas.deliveries import DeliveryMessage
from schemas.erasures import ErasureMessage
from schemas.lanes import LaneMessage, ShareMessage
from schemas.pauses import PauseMessage
from schemas.topics import BY_NAME, TOPICS
from schemas.webhook_endpoints import EndpointMessage
from tests.unit.schemas.messages import ADAPTERS, MESSAGES

BASES = {
    Message,
    JobMessage,
    ResponseMessage,
    EndpointMessage,
    DeliveryMessage,
    LaneMessage,
    ShareMessage,
    PauseMessage,
    ErasureMessage,
}


def _concrete(base: type[Message]) -> set[type[Message]]:
    below = {found for child in base.__subclasses__() for found in _concrete(child)}
    return below if base in BASES else {base, *below}


def test_every_message_belongs_to_a_topic_of_the_table() -> None:
    assert {message.topic for message in _concrete(Message)} <= set(BY_NAME)


def test_every_message_class_has_a_sample_in_the_round_trip() -> None:
    assert {type(message) for message in MESSAGES} == _concrete(Message)


def test_every_topic_has_a_parser() -> None:
    assert set(ADAPTERS) | {"requests", "clock"} == set(BY_NAME)  # No process parses records of `clock`.


def test_a_message_is_keyed_as_the_table_says() -> None:
    keys = {"job id": "job_id", "response id": "response_id"}
    for message in MESSAGES:
        field = keys.get(BY_NAME[message.topic].key)
        if field is not None:
            assert message.key == getattr(message, field)


def test_a_dead_letter_without_the_key_of_its_record_is_keyed_by_its_own_id() -> None:
    letter = next(message for message in MESSAGES if message.topic == "dead-letters")
    assert (letter.key, letter.model_copy(update={"record_key": ""}).key) == ("k", "d")


def test_no_topic_is_named_twice() -> None:
    assert len(BY_NAME) == len(TOPICS)


def test_a_prefix_stands_before_the_name() -> None:
    assert BY_NAME["dead-letters"].full_name("backstop.") == "backstop.dead-letters"


def test_types_within_a_topic_are_distinguished() -> None:
    by_topic: dict[str, list[str]] = {}
    for cls in _concrete(Message):
        by_topic.setdefault(cls.topic, []).append(cls.model_fields["type"].default)
    assert all(len(types) == len(set(types)) for types in by_topic.values())
