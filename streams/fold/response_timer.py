"""The timer of a response, stamped with the time of the poll after it. Pure. The scheduler writes it."""

from dataclasses import replace

from schemas.responses import ResponseTimerFired
from streams.fold.response import CANCEL_AGAIN_MS, ResponseState, RunningResponse, Unclaimed
from streams.policy.polls import NextPoll, Webhooks


def stamped_timer(
    webhooks: Webhooks, response_id: str, state: ResponseState, due_ms: int, now_ms: int
) -> ResponseTimerFired:
    """The timer for `due_ms`, which `state` expects.

    `next_poll_at_ms` on it is the time of the poll after this one, in case this poll does not report. A report sets an
    earlier time, so that at most one poll is due.
    """
    following = NextPoll(now_ms)
    match state:
        case RunningResponse():
            following = webhooks.next_poll(
                response_id=response_id,
                latency_class=state.claim.latency_class,
                accepted_at_ms=state.claim.claimed_at_ms,
                now_ms=now_ms,
                polls=state.polls + 1,
                control=state.claim.control,
            )
            # After `over_at_ms` the job no longer needs the response: the cancel is repeated, less and less often.
            over_ms = now_ms - state.over_at_ms
            if over_ms >= 0:
                following = NextPoll(now_ms + max(CANCEL_AGAIN_MS, over_ms))
            else:
                following = replace(following, at_ms=max(following.at_ms, now_ms + webhooks.policy.report_ms))
        case Unclaimed():
            following = webhooks.next_poll(
                response_id=response_id,
                latency_class=(),
                accepted_at_ms=state.first_seen_ms,
                now_ms=now_ms,
                polls=state.polls + 1,
            )
        case _:
            pass
    return ResponseTimerFired(
        id=f"{response_id}/timer/{due_ms}", at_ms=now_ms, response_id=response_id, due_ms=due_ms,
        next_poll_at_ms=following.at_ms, poll_basis=following.basis,
    )  # fmt: skip
