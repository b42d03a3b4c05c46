"""The order of scheduled polls that wait for their turn: those that have probably ended come first."""

from collections import OrderedDict

from schemas.commands import RetrieveResponse
from streams.policy.polls import Webhooks
from streams.workers.poll_queue import Call, PollQueue

POLLED_MAX = 20_000
"""Responses whose last poll is remembered. A forgotten one counts as never polled."""

ORDER_MS = 1_000
"""The order changes with the age of what waits. It is made again after this time."""


class PollOrder:
    """In memory only: a loss changes the order of waiting polls."""

    def __init__(self, polls: Webhooks) -> None:
        self._polls = polls
        self._polled_at_ms: OrderedDict[str, int] = OrderedDict()
        self._ordered_at_ms = 0

    def polled(self, response_id: str, at_ms: int) -> None:
        """A poll was answered, or failed."""
        self._polled_at_ms[response_id] = at_ms
        self._polled_at_ms.move_to_end(response_id)
        if len(self._polled_at_ms) > POLLED_MAX:
            self._polled_at_ms.popitem(last=False)

    def apply(self, queue: PollQueue, now_ms: int) -> None:
        """Order the scheduled polls of the queue, if that is due. Without learned run times they stay in line."""
        if self._polls.learned is None or len(queue) < 2 or now_ms - self._ordered_at_ms < ORDER_MS:
            return
        self._ordered_at_ms = now_ms
        queue.order(lambda call: self._urgency(call, now_ms))

    def _urgency(self, call: Call, now_ms: int) -> float:
        command = call.command
        if self._polls.learned is None or not isinstance(command, RetrieveResponse) or command.accepted_at_ms is None:
            return 0.0
        plan = self._polls.learned.plan(tuple(command.latency_class or ()))
        if plan is None:
            return 0.0
        age_ms = now_ms - command.accepted_at_ms
        polled_age_ms = self._polled_at_ms.get(command.response_id, command.accepted_at_ms) - command.accepted_at_ms
        return plan.urgency(max(0, polled_age_ms), max(0, age_ms))
