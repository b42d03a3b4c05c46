"""A history in order, without prompts and outputs."""

import asyncio
from typing import Any, get_args

from pydantic import TypeAdapter

from backstop.audit.timeline import SHOWN, TOPICS, in_order, states_at, summary, timeline
from backstop.audit.trace import Trace, from_records, trace
from backstop.readmodel.timeline import summarise
from backstop.runtime.records import Record
from schemas.base import InlineBody, PollBasis
from schemas.codec import canonical
from schemas.commands import POLL_COMMAND, SUBMISSION
from schemas.jobs import JOB_FACT, Turn
from schemas.responses import RESPONSE_FACT
from schemas.results import RESULT
from tests.support import builders as b
from tests.unit.backstop.audit.world import World
from tests.unit.schemas.messages import MESSAGES

SECRET = "canary-prompt-seen-nowhere-else"


def found_in(world: World, identifier: str) -> tuple[Record, ...]:
    found = traced(world, identifier)
    assert found is not None
    return found.records


def traced(world: World, identifier: str) -> Trace | None:
    records = [record for records in world.records.values() for record in records]
    return asyncio.run(trace(identifier, from_records(records)))


def test_a_job_and_its_response_are_found_by_either_id_in_the_order_in_which_things_happened() -> None:
    world = World("a", "b")
    entries = timeline(found_in(world, "a"))
    assert [(entry.topic, entry.kind, entry.effect) for entry in entries] == [
        ("jobs", "job_submitted", "submitting"),
        ("submissions", "create_response", None),
        ("jobs", "attempt_accepted", "running"),
        ("responses", "response_claimed", "running"),
        ("responses", "webhook_received", "running"),
        ("polls", "retrieve_response", None),
        ("jobs", "attempt_settled", "finished: completed"),
        ("responses", "response_observed", "ended: completed"),
        ("results", "job_result", None),
    ]
    assert {entry.key for entry in entries} == {"a", "resp_a"}
    assert traced(world, "resp_a") == traced(world, "a")
    first = entries[0]
    assert world.records[first.topic, first.partition][first.offset].key == b"a"
    assert first.place == f"jobs:{first.partition}:{first.offset}"


def test_an_id_that_no_log_knows_has_no_history() -> None:
    assert traced(World("a"), "unknown") is None


def test_an_unclaimed_response_has_a_history_of_its_own() -> None:
    world = World()
    world.tell(b.webhook(b.T0, response_id="resp_x"))
    world.work()
    found = traced(world, "resp_x")
    assert found is not None
    assert (found.job_id, found.response_ids) == (None, ("resp_x",))
    assert [(entry.kind, entry.effect) for entry in timeline(found.records)] == [("webhook_received", "unclaimed")]


def test_a_job_that_waits_for_its_turn_has_its_state_on_the_timeline() -> None:
    world = World()
    world.tell(b.submitted(b.T0, job_id="a", turn=Turn(waits=True)), b.admitted(b.T0 + 100, "a"))
    assert [entry.effect for entry in timeline(found_in(world, "a"))] == ["waiting", "submitting"]


def test_a_fact_that_changed_nothing_says_why() -> None:
    world = World("a")
    world.tell(b.submitted(b.T0 + 99, job_id="a"), b.unknown(b.T0 + 100, job_id="a"))
    effects = [entry.effect for entry in timeline(found_in(world, "a"))]
    assert effects[-2:] == ["ignored: duplicate", "ignored: late"]


def test_no_clock_puts_two_records_of_a_partition_in_another_order_than_their_log() -> None:
    world = World()
    late = world.append(("jobs", 0), b"a", b"{}", 500)
    skewed = world.append(("jobs", 0), b"a", b"{}", 100)
    elsewhere = world.append(("jobs", 1), b"a", b"{}", 300)
    assert in_order([skewed, elsewhere, late]) == [elsewhere, late, skewed]


def types_of(adapter: TypeAdapter[Any]) -> set[str]:
    found = set()
    for choice in get_args(adapter._type) or (adapter._type,):
        for model in get_args(choice) or (choice,):
            if hasattr(model, "model_fields"):
                found.add(model.model_fields["type"].default)
    return found


def test_every_type_of_message_has_its_summary() -> None:
    adapters = (JOB_FACT, RESPONSE_FACT, SUBMISSION, POLL_COMMAND, RESULT)
    assert {name for adapter in adapters for name in types_of(adapter)} == set(SHOWN)


def test_no_summary_and_no_state_tells_what_people_or_the_provider_wrote() -> None:
    world = World()
    prompt = InlineBody(value={"input": SECRET})
    world.tell(
        b.submitted(request=prompt), b.rejected(b.T0 + 5, message=SECRET), b.cancel_requested(b.T0 + 9, reason=SECRET)
    )
    world.tell(b.settled(b.T0 + 10, "failed", message=SECRET, response=prompt))
    world.work()
    found = traced(world, b.JOB)
    assert found is not None
    assert any(SECRET in (record.value or b"").decode() for record in found.records)
    shown = [entry.as_json() for entry in timeline(found.records)]
    shown += [state.as_json() for at_ms in (b.T0, b.T0 + 6, b.T0 + 20) for state in states_at(found.records, at_ms)]
    assert SECRET.encode() not in canonical(shown)
    assert all(summary(message) is not None for message in MESSAGES if message.topic in TOPICS)


def test_the_state_as_of_a_time_is_that_after_the_last_fact_up_to_it() -> None:
    world = World("a")
    records = found_in(world, "a")

    def at(ms: int) -> list[tuple[str, str, int]]:
        return [(state.key, state.status, state.facts) for state in states_at(records, b.T0 + ms)]

    assert at(-1) == []
    assert at(0) == [("a", "submitting", 1)]
    assert at(15) == [("a", "running", 2), ("resp_a", "running", 1)]
    assert at(30) == [("a", "finished: completed", 3), ("resp_a", "ended: completed", 3)]


def test_a_record_that_cannot_be_read_is_on_the_timeline_as_such() -> None:
    world = World("a")
    world.put("jobs", b"a", b"\xff", b.T0 + 50)
    world.put("results", b"a", None, b.T0 + 60)
    kinds = [entry.kind for entry in timeline(found_in(world, "a"))]
    assert kinds[-2:] == ["unreadable", "erased"]


def test_a_poll_says_what_its_time_was_decided_from() -> None:
    basis = PollBasis(latency_class=("m", "high"), ends=12, loss=0.01, price_s=0.4, policy=1)
    shown = summary(b.observed(b.T0, "running", poll_basis=basis))
    assert shown["poll_basis"] == {
        "latency_class": ["m", "high"], "ends": 12, "loss": 0.01, "price_s": 0.4, "policy": 1,
    }  # fmt: skip
    assert canonical(shown)
    words = b"m high: 12 ends, 1 % of webhooks lost, a poll is worth 0.4 s"
    assert words in summarise(b.observed(b.T0, "running", poll_basis=basis))
