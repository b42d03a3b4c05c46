"""What an open job waits for: the one place that decides it, for the API, lists, events, page and command line. Pure.

`wait_after` reads the facts of the job's own log, so a row holds its result. `waiting_view` adds what is known only
when the question is asked: the time, what webhooks and polls told of the response that runs, and partitions without a
worker.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, assert_never

import orjson

from backstop.readmodel.answers import WaitingView
from backstop.readmodel.rows import Place, TimelineEntry, Wait
from backstop.readmodel.turn_text import placed, turn_of
from schemas.jobs import AttemptAccepted, JobFact, ResponseAdopted
from schemas.webhook_endpoints import EVENT_TYPES
from streams.fold.attempts import OutcomeUnknown, Running, Submitting
from streams.fold.job import Absent, Active, BackingOff, Finished, JobState, Waiting, due_ms

MESSAGE_CHARS_MAX: Final = 300
"""Of a message, which may be the provider's own words."""

LATE_MS: Final = 2_000
"""An attempt that is due for longer than this waits for its lane, not for its time."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What the facts of the response that runs tell of it."""

    partition: int | None = None
    """Of the topic `responses`."""
    webhook_at_ms: int | None = None
    """When a webhook told of its end."""
    next_poll_at_ms: int | None = None
    shown: str | None = None
    """The status that the last poll showed."""
    failed: str | None = None
    """Why the last poll failed; None if it did not."""
    place: Place | None = None
    """Where the job stands, if it waits for its turn."""


UNSEEN: Final = Sight()


def idle_wait(topic: str, partition: int, since_ms: int) -> Wait:
    """What a job waits for whose partition no worker holds."""
    said = f"no worker holds partition {partition} of {topic} since {time_of(since_ms)}"
    return Wait("worker", since_ms, None, "no_worker", said)


def wait_after(state: JobState, fact: JobFact, before: Wait | None) -> Wait | None:
    """What the job waits for after `fact` led to `state`. None: there is no job."""
    match state:
        case Absent():
            return None
        case Waiting():
            return _waiting(state)
        case Active():
            return _active(state, fact, before)
        case BackingOff():
            return _backing_off(state, fact.at_ms, before)
        case Finished():
            said = f"the job ended as {state.outcome}, and its record on results has not been read yet"
            return Wait("result", fact.at_ms, None, "ended", said)
        case _:
            assert_never(state)


def _waiting(state: Waiting) -> Wait:
    begins_ms = state.spec.turn.not_before_ms if state.spec.turn is not None else None
    if begins_ms is not None and begins_ms > state.since_ms:
        return Wait("turn", state.since_ms, begins_ms, "not_before", "the job asked not to begin before a time")
    said = f"it waits for its turn under the limits of {state.spec.model}"
    return Wait("turn", state.since_ms, state.spec.deadline_at_ms, "turn", said)


def _active(state: Active, fact: JobFact, before: Wait | None) -> Wait:
    """By the most advanced attempt; of two that run, the newer one."""
    items = state.attempts.items
    running = [item for item in items if isinstance(item, Running)]
    if running:
        return _running(running[-1], state, fact, before)
    for item in items:
        if isinstance(item, Submitting):
            said = f"the create of attempt {item.number} is on its way to the provider"
            return Wait("acceptance", item.since_ms, item.report_by_ms, "create_sent", said)
    for item in items:
        if isinstance(item, OutcomeUnknown):
            since_ms = item.adopt_by_ms - state.spec.policy.adoption_grace_ms
            said = f"it is not known whether the provider took the create of attempt {item.number}"
            return Wait("adoption", since_ms, item.adopt_by_ms, "outcome_unknown", said)
    raise AssertionError("an active job has an attempt that is submitting, unknown or running")


def _running(item: Running, state: Active, fact: JobFact, before: Wait | None) -> Wait:
    until_ms = due_ms(state)
    if isinstance(fact, AttemptAccepted | ResponseAdopted) and fact.response_id == item.response_id:
        until_ms = fact.poll_at_ms
    elif before is not None and before.response_id == item.response_id:
        until_ms = before.until_ms
    said = f"attempt {item.number} runs at the provider as {item.response_id}"
    return Wait("webhook", item.accepted_at_ms, until_ms, "running", said, item.response_id)


def _backing_off(state: BackingOff, at_ms: int, before: Wait | None) -> Wait:
    deadline_ms = state.spec.deadline_at_ms
    wait = Wait("retry", at_ms, state.retry_at_ms, state.why.code, cut(state.why.message))
    if state.last or state.retry_at_ms >= deadline_ms:
        wait = replace(wait, waits_for="deadline", until_ms=deadline_ms)
    elif (state.held_for or state.cause) == "account":
        wait = replace(wait, waits_for="operator")
    if before is not None and (before.waits_for, before.code) == (wait.waits_for, wait.code):
        return replace(wait, since_ms=before.since_ms)
    return wait


def cut(text: str) -> str:
    """`text` as lists show it: one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_CHARS_MAX else f"{line[: MESSAGE_CHARS_MAX - 1]}…"


def sight_of(entries: Iterable[TimelineEntry], response_id: str | None) -> Sight:
    """What the facts of the response tell, in their order on the timeline."""
    seen = UNSEEN
    for entry in entries:
        if entry.position.topic != "responses":
            continue
        summary = orjson.loads(entry.summary)
        if response_id is not None and summary.get("response_id") == response_id:
            seen = _saw(replace(seen, partition=entry.position.partition), entry, summary)
    return seen


def _saw(seen: Sight, entry: TimelineEntry, summary: dict[str, Any]) -> Sight:
    poll_at_ms = summary.get("next_poll_at_ms") or summary.get("poll_at_ms") or seen.next_poll_at_ms
    seen = replace(seen, next_poll_at_ms=poll_at_ms)
    match entry.kind:
        case "webhook_received":
            return replace(seen, webhook_at_ms=entry.at_ms) if summary.get("event_type") in EVENT_TYPES else seen
        case "response_observed":
            return replace(seen, shown=summary.get("status") or summary.get("outcome"), failed=None)
        case "poll_failed":
            return replace(seen, failed=summary.get("reason"))
        case _:
            return seen


def waiting_view(
    wait: Wait, now_ms: int, deadline_ms: int | None = None, sight: Sight = UNSEEN, held: Wait | None = None,
    tenant: str = "",
) -> WaitingView:  # fmt: skip
    """`wait` as it is shown at `now_ms`. `held`: what holds the job up before anything else can."""
    wait = _seen(wait, sight) if wait.waits_for == "webhook" else wait
    if wait.waits_for == "retry" and wait.until_ms is not None and now_ms > wait.until_ms + LATE_MS:
        wait = replace(wait, waits_for="lane", since_ms=wait.until_ms, until_ms=deadline_ms)
    if wait.code == "not_before" and wait.until_ms is not None and now_ms >= wait.until_ms:
        wait = Wait("turn", wait.until_ms, deadline_ms, "turn", "it waits for its turn under the limits of its model")
    wait = held or wait
    view: WaitingView = {
        "for": wait.waits_for,
        "since_ms": wait.since_ms,
        "because": {"code": wait.code, "message": wait.message},
    }
    if wait.until_ms is not None:
        view["until_ms"] = wait.until_ms
    if sight.place is not None and wait.waits_for == "turn" and wait.code == "turn":
        view["because"] = {"code": sight.place.reason or "turn", "message": f"Waiting: {placed(sight.place, tenant)}"}
        view["turn"] = turn_of(sight.place)
    return view


def _seen(wait: Wait, sight: Sight) -> Wait:
    """What webhooks and polls told changes what is awaited."""
    until_ms = sight.next_poll_at_ms if sight.next_poll_at_ms is not None else wait.until_ms
    shown = f"; the last poll showed it {sight.shown}" if sight.shown is not None else ""
    if sight.failed is not None:
        shown = f"; the last poll failed: {cut(sight.failed)}"
    code = "poll_failed" if sight.failed is not None else sight.shown or wait.code
    if sight.webhook_at_ms is None:
        return replace(wait, until_ms=until_ms, code=code, message=f"{wait.message}{shown}")
    return replace(
        wait, waits_for="poll", since_ms=sight.webhook_at_ms, until_ms=until_ms,
        code="poll_failed" if sight.failed is not None else "webhook_arrived",
        message=f"a webhook told of the end of {wait.response_id} at {time_of(sight.webhook_at_ms)}, and a poll must "
        f"confirm it{shown}",
    )  # fmt: skip


def time_of(at_ms: int) -> str:
    """`12:30:05 UTC`."""
    return f"{datetime.fromtimestamp(at_ms // 1000, UTC):%H:%M:%S} UTC"
