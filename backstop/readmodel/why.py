"""Why a job stands where it does: two or three sentences from its state, its result and its costs. Pure.

Each state of the job fold, each state of an attempt and each cause has its sentence here, and mypy reports a new one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NotRequired, assert_never

import orjson
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from backstop.readmodel.answers import TurnView
from backstop.readmodel.costs import CostView
from backstop.readmodel.fallback_text import fallback_ahead, fallbacks_told
from backstop.readmodel.rows import Place, TimelineEntry
from backstop.readmodel.turn_text import placed, span
from schemas.base import Cause
from schemas.fallbacks import FallbackBrief
from schemas.job_ids import own_job_id
from schemas.pauses import PAUSED_CODE, CreatesPaused
from schemas.results import HedgeBrief, JobResult, Reason
from schemas.statuses import JobOutcome, JobStatus
from streams.fold.attempts import Abandoned, Attempt, Attempts, OutcomeUnknown, Over, Running, Submitting
from streams.fold.job import Absent, Active, BackingOff, Finished, JobState, Spec, Waiting, due_ms

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)
PAUSES_TOLD_MAX: Final = 3
TEXT_CHARS_MAX: Final = 300
"""Of the provider's own words."""


@with_config(_DOCUMENTED)
class WhyView(TypedDict):
    """Why a job stands where it does, in sentences made from its facts."""

    object: Literal["why"]
    job_id: str
    status: JobStatus
    sentences: list[str]
    next_at_ms: NotRequired[int]
    """When Backstop acts on the job next, if nothing happens before."""
    turn: NotRequired[TurnView]
    """Where the job stands, if it waits for its turn under the limits."""


@dataclass(frozen=True, slots=True)
class JobSituation:
    """What is known of a job. `now_ms`: times are told relative to it."""

    state: JobState
    now_ms: int
    result: JobResult | None = None
    cost: CostView | None = None
    next_poll_at_ms: int | None = None
    """The next poll of its responses, if one is planned."""
    paused: tuple[CreatesPaused, ...] = ()
    """The pauses in force that hold its creates."""
    place: Place | None = None
    """Its place among the jobs that wait for their turn, if it does."""
    retried_as: str | None = None
    """The job that repeats this one."""


def why(seen: JobSituation) -> list[str]:
    """What the job waits for or why it ended; what happened before; what it cost so far."""
    ended = seen.result is not None
    first = _ended(seen.result) if seen.result is not None else _stands(seen)
    said = [*first, *fallbacks_told(_fell(seen)), *_repeats(seen), *_before(seen), *_cost(seen.cost, ended=ended)]
    return [_sentence(text) for text in said]


def _fell(seen: JobSituation) -> tuple[FallbackBrief, ...]:
    if seen.result is not None:
        return seen.result.fallbacks or ()
    return seen.state.spec.fell if isinstance(seen.state, Waiting | Active | BackingOff) else ()


def next_at_ms(seen: JobSituation) -> int | None:
    """When Backstop acts next: the job's own time, or an earlier poll. None once it has ended."""
    if seen.result is not None or isinstance(seen.state, Absent | Finished):
        return None
    due = due_ms(seen.state)
    times = [at for at in (due, seen.next_poll_at_ms) if at is not None]
    return min(times, default=None)


def next_poll_of(entries: Sequence[TimelineEntry], now_ms: int) -> int | None:
    """The next poll by the newest fact that names one; None if that time has passed."""
    for entry in reversed(entries):
        summary = orjson.loads(entry.summary)
        at_ms = summary.get("next_poll_at_ms") or summary.get("poll_at_ms")
        if isinstance(at_ms, int):
            return at_ms if at_ms > now_ms else None
    return None


def _stands(seen: JobSituation) -> list[str]:
    """A new state of the job, such as one of waiting for its turn, gets its sentence here."""
    state, now_ms = seen.state, seen.now_ms
    match state:
        case Absent():
            return ["The job is accepted, and its facts have not been read from the log yet"]
        case Waiting():
            return _waiting(state, seen)
        case Active():
            said = [text for item in state.attempts.items if (text := _attempt(item, seen)) is not None]
            submitting = any(isinstance(item, Submitting) for item in state.attempts.items)
            return [
                *said,
                *_beside(state.attempts),
                *(_paused(seen) if submitting else []),
                f"The job ends as expired {_at(state.spec.deadline_at_ms, now_ms)} if no attempt ends before",
            ]
        case BackingOff():
            return _backing_off(state, seen)
        case Finished():
            return [f"The job has ended as {state.outcome}; its record on the topic `results` has not been read yet"]
        case _:
            assert_never(state)


def _waiting(state: Waiting, seen: JobSituation) -> list[str]:
    now_ms = seen.now_ms
    if seen.paused:
        ends = f"The job begins when that is resumed, and expires {_at(state.spec.deadline_at_ms, now_ms)} otherwise"
        return [*_paused(seen), ends]
    begins_ms = state.spec.turn.not_before_ms if state.spec.turn is not None else None
    if begins_ms is not None and begins_ms > now_ms:
        said = [f"The job asked not to begin before a time, which comes {_at(begins_ms, now_ms)}"]
    else:
        model = state.spec.model
        said = [f"The job waits for its turn under the limits of {model}, since {span(now_ms - state.since_ms)}"]
        if seen.place is not None:
            said.append(f"Waiting: {placed(seen.place, state.spec.tenant)}")
    return [*said, f"The job ends as expired {_at(state.spec.deadline_at_ms, now_ms)} if no attempt ends before"]


def _attempt(item: Attempt, seen: JobSituation) -> str | None:
    """What is awaited of a live attempt; None for one that is over."""
    now_ms = seen.now_ms
    match item:
        case Submitting():
            return (
                f"Attempt {item.number} waits for the provider to accept it, since {span(now_ms - item.since_ms)}; "
                f"without a report its outcome counts as unknown {_at(item.report_by_ms, now_ms)}"
            )
        case Running():
            poll = "" if seen.next_poll_at_ms is None else f"; the next poll is {_at(seen.next_poll_at_ms, now_ms)}"
            found = " (found by a poll after its create had no answer)" if item.adopted else ""
            return (
                f"Attempt {item.number} runs at the provider as {item.response_id}{found}, accepted "
                f"{span(now_ms - item.accepted_at_ms)} ago: a webhook or a poll will tell its end{poll}"
            )
        case OutcomeUnknown() if item.taken:
            took = f"The provider took the create of attempt {item.number}, and its answer named no response"
            return f"{took}{_quoted(item.said)}: a webhook may still bring it. It is not repeated, as it may be paid"
        case OutcomeUnknown():
            answered = " and was answered with an error that proves no refusal" if item.answered else ""
            return (
                f"The create of attempt {item.number} was sent{answered}, and it is not known whether the provider "
                "took it"
                f"{_quoted(item.said)}: a webhook may still bring its response; after that time, "
                f"{_at(item.adopt_by_ms, now_ms)}, it is given up and may be repeated"
            )
        case Abandoned():
            return (
                f"Attempt {item.number} was given up, as the outcome of its create stayed unknown; its response still "
                "counts if it turns up"
            )
        case Over():
            return None
        case _:
            assert_never(item)


def _beside(attempts: Attempts) -> list[str]:
    """Which attempt is a hedge, while it and the other one are open."""
    hedge = attempts.hedge
    if hedge is None:
        return []
    pair = (attempts.get(hedge.number), attempts.get(hedge.beside))
    if not all(isinstance(item, Submitting | Running | OutcomeUnknown) for item in pair):
        return []
    begun = f"begun when that had run for {span(hedge.after_ms)}"
    which = f"Attempt {hedge.number} is a second attempt beside attempt {hedge.beside}, {begun}"
    return [f"{which}; the first of the two to complete ends the job"]


def _paused(seen: JobSituation) -> list[str]:
    """The pauses in force, in the operators' words, and the budgets that are used up."""
    return [
        f"The budget per {pause.scope.budget} of tenant {pause.scope.tenant} holds creates "
        f"{_at(pause.at_ms, seen.now_ms)}: {pause.why}"
        if pause.scope.budget is not None
        else f"An operator has paused creates ({pause.scope.words}) {_at(pause.at_ms, seen.now_ms)}, {pause.words}"
        for pause in seen.paused[:PAUSES_TOLD_MAX]
    ]


def _backing_off(state: BackingOff, seen: JobSituation) -> list[str]:
    now_ms = seen.now_ms
    reason = _reason(state.why)
    if state.last:
        return [
            (
                f"No further attempt is granted after the last one failed ({reason}); the job waits until its "
                f"deadline, {_at(state.spec.deadline_at_ms, now_ms)}, as an attempt of unknown outcome may still "
                "bring a response"
            )
        ]
    number, deadline = state.attempts.last_number + 1, _at(state.spec.deadline_at_ms, now_ms)
    if seen.paused:
        before = [] if state.why.code == PAUSED_CODE else [f"Its last attempt ended: {reason}"]
        ends = f"Attempt {number} begins when that is resumed; the job expires {deadline} otherwise"
        return [*_paused(seen), *before, ends]
    if state.why.code == PAUSED_CODE:
        ended = f"The job waited while an operator had paused its creates ({state.why.message}); they are resumed"
        return [ended, f"Attempt {number} begins in its turn: jobs that waited begin along a ramp"]
    said = [f"The job waits because {_waits(state.cause, state.held_for)}: {reason}"]
    if state.spec.fell and state.spec.fell[-1].from_attempt == number:
        said = [f"The job waits for its turn with another model, {state.spec.model}"]
    if state.retry_at_ms > now_ms:
        said.append(f"Attempt {state.attempts.last_number + 1} begins {_at(state.retry_at_ms, now_ms)}")
    else:
        turn = state.spec.turn
        room = " and its limits have room" if turn is not None and turn.waits else ""
        said.append(f"Attempt {number} is due and begins as soon as the lane of its model is open{room}")
    said += fallback_ahead(state.spec) if state.cause in ("held", "account") else []
    deadline_ms = state.spec.deadline_at_ms
    if state.retry_at_ms >= deadline_ms:
        said[1:] = [f"The next attempt would begin after the deadline, so the job expires {_at(deadline_ms, now_ms)}"]
    return said


def _waits(cause: Cause, held_for: Cause | None) -> str:
    match cause:
        case "limited":
            words = "the provider limits the rate of requests or tokens"
        case "overloaded":
            words = "the provider has no capacity at the moment"
        case "faulty":
            words = "the attempt before failed by an error at the provider, or brought no end"
        case "later":
            words = "the provider says that the request can be served later"
        case "account":
            words = "the provider refuses the account until an operator acts (key, quota, billing or permission)"
        case "odd":
            words = "the provider refused without a known reason"
        case "never":
            words = "the request was refused for what is in it"
        case "held":
            words = "creates of its model are held"
            if held_for == "faulty":  # Of the lane: nothing is said of this job's own attempts.
                words += ", as the provider answered creates with errors"
            elif held_for not in (None, "held"):
                words += f", as {_waits(held_for, None)}"
        case "unsent":
            words = "the create could not be sent: no connection, or its command had expired"
        case _:
            assert_never(cause)
    return words


def _ended(result: JobResult) -> list[str]:
    took = span(result.timings.finished_at_ms - result.timings.submitted_at_ms)
    return [f"{_outcome(result.outcome, result.reason)}, {took} after its submission", *_hedged(result.hedge)]


def _hedged(hedge: HedgeBrief | None) -> list[str]:
    """Which of two attempts won, and by how much."""
    if hedge is None:
        return []
    begun = f"attempt {hedge.attempt} was begun beside attempt {hedge.beside} after {span(hedge.begun_after_ms)}"
    match hedge.won:
        case None:
            return [f"It was hedged: {begun}, and neither of the two decided the job"]
        case "first":
            return [f"It was hedged: {begun}, and attempt {hedge.beside} won after all"]
        case "hedge":
            ahead = "" if hedge.ahead_ms is None else f", ahead by {span(hedge.ahead_ms)} or more"
            return [f"It was hedged: {begun}, and won{ahead}"]
        case _:
            assert_never(hedge.won)


_ENDS: Final[Mapping[JobOutcome, str]] = {
    "incomplete": "The job ended with an incomplete output",
    "failed": "The job failed",
    "expired": "The job's deadline passed",
    "rejected": "The job was rejected before any attempt",
}


def _outcome(outcome: JobOutcome, reason: Reason | None) -> str:
    because = "" if reason is None else f": {_reason(reason)}"
    if outcome == "completed":
        return "The job completed"
    if outcome == "cancelled":
        by = "" if reason is not None and reason.code == "cancel_requested" else " by the provider"
        return f"The job was cancelled{by}{because}"
    if reason is not None and reason.code == "would_not_finish":
        return f"The job was ended before it began, as it could not end by its deadline{because}"
    if reason is not None and reason.code == "cost_cap":
        ended = "was ended before it began" if outcome == "rejected" else "got no further attempt"
        return f"The job {ended}, as its own cap leaves no room{because}"
    if outcome == "rejected" and reason is not None and reason.code == "response_taken":
        return f"The job was rejected, as it can't adopt the response{because}"
    return f"{_ENDS.get(outcome, f'The job ended as {outcome}')}{because}"


def _repeats(seen: JobSituation) -> list[str]:
    """The ended job whose request this one repeats, and the job that repeats this one."""
    again = [] if seen.retried_as is None else [f"It was retried as the job {seen.retried_as}"]
    told: JobResult | Spec | None = seen.result
    if told is None and isinstance(seen.state, Waiting | Active | BackingOff):
        told = seen.state.spec
    if told is None or told.retry_of is None:
        return again
    return [f"It repeats the job {own_job_id(told.tenant, told.retry_of)}, which had ended", *again]


def _before(seen: JobSituation) -> list[str]:
    """The attempts that ended without an answer, by kind."""
    result, state = seen.result, seen.state
    if result is not None:
        failed = [brief for brief in result.attempts if brief.outcome != "completed"]
        hedge = result.hedge
        if hedge is not None and hedge.won is not None:  # Told already.
            failed = [brief for brief in failed if brief.attempt not in (hedge.attempt, hedge.beside)]
        last = max((brief.attempt for brief in result.attempts), default=0)
        before = [brief for brief in failed if brief.attempt < last]
        told = [f"{brief.outcome} ({brief.code})" if brief.code else brief.outcome for brief in before]
        return _told_before(len(before), told, result.rejections)
    if isinstance(state, Active | BackingOff):
        over = _over(state.attempts, without_last=isinstance(state, BackingOff))
        return _told_before(len(over), over, state.attempts.rejections)
    return []


def _over(attempts: Attempts, *, without_last: bool) -> list[str]:
    ended = [item for item in attempts.items if isinstance(item, Over)]
    if without_last and ended and ended[-1].number == attempts.last_number:
        ended = ended[:-1]  # Why the job waits tells of this one.
    return [f"{item.status} ({item.code})" if item.code else item.status for item in ended]


def _told_before(count: int, kinds: Iterable[str], rejections: int) -> list[str]:
    parts = []
    if count:
        parts.append(f"{_count(count, 'attempt')} ended without an answer: {', '.join(dict.fromkeys(kinds))}")
    if rejections:
        parts.append(f"the provider refused {_count(rejections, 'create')}, which cost nothing")
    return [f"Before, {' and '.join(parts)}"] if parts else []


def _cost(cost: CostView | None, *, ended: bool) -> list[str]:
    if cost is None or not cost["attempts"]:
        return [f"{'It' if ended else 'So far it'} cost nothing"]
    known = f"${cost['cost_usd']}" if "cost_usd" in cost else "an unknown amount"
    beside = ((cost["unmeasured"], "of unknown usage"), (cost["unpriced"], "without a price"))
    unknown = [f"{_count(number, 'attempt')} {what}" for number, what in beside if number]
    tokens = f"{cost['input_tokens']:,} input and {cost['output_tokens']:,} output tokens"
    missing = f"; not counted are {' and '.join(unknown)}" if unknown else ""
    return [f"{'It' if ended else 'So far it'} cost {known} ({tokens}){missing}"]


def _reason(reason: Reason) -> str:
    said = f"{reason.code}{_http(reason)}"
    text = reason.message.strip()[:TEXT_CHARS_MAX].rstrip(".")
    if not text:
        return said
    return f"{said}, in the provider's words: {text}" if reason.said_by == "provider" else f"{said}, {text}"


def _http(reason: Reason) -> str:
    return f" (HTTP {reason.http_status})" if reason.http_status is not None else ""


def _quoted(said: str) -> str:
    return f" ({said.strip()[:TEXT_CHARS_MAX]})" if said.strip() else ""


def _sentence(text: str) -> str:
    return text if text.endswith((".", "…")) else f"{text}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _at(at_ms: int, now_ms: int) -> str:
    """`at 12:30:05 UTC (in 40 s)`."""
    when = datetime.fromtimestamp(at_ms // 1000, UTC)
    day = "" if at_ms // 86_400_000 == now_ms // 86_400_000 else f"{when:%Y-%m-%d} "
    left = at_ms - now_ms
    return f"at {day}{when:%H:%M:%S} UTC ({f'in {span(left)}' if left >= 0 else f'{span(-left)} ago'})"
