"""The order of turns when more calls are wanted than are allowed."""

import asyncio
from collections import Counter

import pytest

from schemas.commands import CancelResponse, RetrieveResponse
from streams.workers.poll_queue import CANCEL, DUE, WEBHOOK, Call, PollQueue
from tests.support.builders import T0


def poll(response_id: str, reason: str = "timer", number: int = 0, partition: int = 0) -> Call:
    command = RetrieveResponse.model_validate(
        {"id": f"{response_id}/{reason}/{number}", "at_ms": T0 + number, "response_id": response_id, "reason": reason}
    )
    return Call(command, partition, [number])


def cancel(response_id: str, number: int = 9) -> Call:
    command = CancelResponse(id=f"{response_id}/cancel", at_ms=T0 + number, response_id=response_id, job_id="j")
    return Call(command, 0, [number])


def ids(queue: PollQueue, count: int) -> list[str]:
    found = [queue.pop() for _ in range(count)]
    return [call.command.response_id for call in found if call is not None]


def test_in_a_lane_the_first_comes_first() -> None:
    queue = PollQueue()
    for number in range(5):
        queue.push(poll(f"r{number}"))
    assert ids(queue, 6) == ["r0", "r1", "r2", "r3", "r4"]
    assert len(queue) == 0


@pytest.mark.parametrize("crowd", [WEBHOOK, DUE, CANCEL])
def test_no_lane_waits_for_another_to_be_empty(crowd: int) -> None:
    queue = PollQueue()
    make = {WEBHOOK: lambda n: poll(n, "webhook"), DUE: poll, CANCEL: cancel}
    for lane, of_lane in make.items():
        for number in range(400 if lane == crowd else 40):
            queue.push(of_lane(f"{lane}-{number}"))
    taken = Counter(int(name[0]) for name in ids(queue, 80))
    assert taken == {WEBHOOK: 40, DUE: 20, CANCEL: 20}


def test_unused_turns_of_a_lane_go_to_the_most_urgent_of_the_others() -> None:
    queue = PollQueue()
    for number in range(8):
        queue.push(poll(f"w{number}", "webhook"))
        queue.push(cancel(f"c{number}"))
    assert ids(queue, 8) == ["w0", "w1", "w2", "c0", "w3", "w4", "w5", "c1"]


def test_a_webhook_moves_the_poll_of_its_response_to_the_front() -> None:
    queue = PollQueue()
    for name in ("a", "b", "c"):
        assert queue.push(poll(name))
    assert not queue.push(poll("c", "webhook"))
    assert len(queue) == 3
    assert ids(queue, 4) == ["c", "a", "b"]


def test_a_cancel_of_a_response_that_waits_for_a_poll_is_made_in_its_stead_and_at_its_turn() -> None:
    queue = PollQueue()
    queue.push(poll("a", "webhook"))
    queue.push(cancel("a"))
    call = queue.pop()
    assert call is not None
    assert isinstance(call.command, CancelResponse)
    assert call.lane == WEBHOOK
    assert queue.pop() is None


def test_the_call_that_does_for_others_finishes_them_and_is_as_fresh_as_the_last_of_them() -> None:
    queue = PollQueue()
    queue.push(cancel("a", number=1))
    queue.push(poll("a", number=2))
    queue.push(poll("a", "webhook", number=3))
    call = queue.pop()
    assert call is not None
    assert isinstance(call.command, CancelResponse)
    assert (call.offsets, call.asked_at_ms) == ([1, 2, 3], T0 + 3)


def test_dropped_calls_are_gone_and_the_others_keep_their_places() -> None:
    queue = PollQueue()
    for number in range(6):
        queue.push(poll(f"r{number}", partition=number % 2))
    queue.push(poll("r2", "webhook", partition=0))
    dropped = queue.drop(lambda call: call.partition == 0)
    assert [call.command.response_id for call in dropped] == ["r1", "r3", "r5"]
    assert len(queue) == 3
    queue.push(poll("r1"))
    assert ids(queue, 5) == ["r2", "r0", "r4", "r1"]


def test_a_waiting_reader_is_woken_by_a_call() -> None:
    async def scene() -> Call | None:
        queue = PollQueue()
        waiting = asyncio.create_task(queue.some())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.push(cancel("a"))
        await waiting
        return queue.pop()

    assert asyncio.run(scene()) is not None
