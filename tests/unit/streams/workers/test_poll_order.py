"""What waits for a turn: past the longest wait first, then by the chance that it has ended."""

from schemas.commands import RetrieveResponse
from streams.policy.latency import Latencies
from streams.policy.learned_polls import LearnedPolls, PollPrice
from streams.policy.polls import PollPolicy, Webhooks
from streams.workers.poll_order import ORDER_MS, PollOrder
from streams.workers.poll_queue import Call, PollQueue

NOW_MS = 10_000_000
LEAF = ("m", "high", "small")


def learned(ends: int = 100) -> Webhooks:
    polls = LearnedPolls(PollPrice(), Latencies())
    for number in range(ends):
        polls.latencies.began(str(number), LEAF, NOW_MS, NOW_MS)
        polls.latencies.ended(str(number), 30_000 + 300 * number, NOW_MS)
    polls.arrived(LEAF)
    for _ in polls.refresh(NOW_MS, 20.0):
        pass
    return Webhooks(PollPolicy(), learned=polls)


def queued(ages_ms: dict[str, int]) -> PollQueue:
    queue = PollQueue()
    for offset, (name, age_ms) in enumerate(ages_ms.items()):
        command = RetrieveResponse(
            id=f"{name}/poll", at_ms=NOW_MS, response_id=name, reason="timer", accepted_at_ms=NOW_MS - age_ms,
            latency_class=LEAF,
        )  # fmt: skip
        queue.push(Call(command, 0, [offset]))
    return queue


def popped(queue: PollQueue) -> list[str]:
    found = []
    while (call := queue.pop()) is not None:
        found.append(call.command.response_id)
    return found


def test_the_likeliest_end_is_first_and_before_it_what_may_expire() -> None:
    queue = queued({"young": 5_000, "likely": 50_000, "just_polled": 55_000, "expires": 300_000})
    order = PollOrder(learned())
    order.polled("just_polled", NOW_MS - 500)
    order.apply(queue, NOW_MS)
    assert popped(queue) == ["expires", "likely", "just_polled", "young"]


def test_with_the_fixed_schedule_they_stay_in_line() -> None:
    queue = queued({"young": 5_000, "likely": 50_000})
    PollOrder(Webhooks(PollPolicy())).apply(queue, NOW_MS)
    assert popped(queue) == ["young", "likely"]


def test_the_order_is_made_once_a_second() -> None:
    order = PollOrder(learned())
    order.apply(queued({"young": 5_000, "likely": 50_000}), NOW_MS)
    soon = queued({"young": 5_000, "likely": 50_000})
    order.apply(soon, NOW_MS + ORDER_MS - 1)
    assert popped(soon) == ["young", "likely"]
