"""`docs/diagrams/{job,response}.md`: the states of both folds, found by running `step`.

`make diagram` writes the pages, and a unit test compares them. The search begins at `Absent`, folds each sample fact
into each state that it has reached, and goes on from the states that come out. Two states count as one if they look
the same in the diagram (`_shape`), so the search ends. A transition is in a diagram only if `step` made it.
"""

import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from schemas.base import Message, Usage
from schemas.hedges import HedgeTerms
from schemas.jobs import AttemptEnd, Turn, UsageBooked
from schemas.statuses import JOB_OUTCOMES, SettledStatus
from streams.fold import attempts, job, response
from streams.fold.step import Step
from tests.support.builders import (
    DEADLINE,
    FORGET_AFTER,
    PERMIT,
    POLICY,
    T0,
    accepted,
    admitted,
    adopted,
    adoption_refused,
    cancel_requested,
    claimed,
    deadline_moved,
    fallback_taken,
    found_too_late,
    hedge_permitted,
    job_changed,
    job_erased,
    job_timer,
    observed,
    poll_failed,
    refused,
    rejected,
    released,
    response_timer,
    settled,
    submitted,
    unknown,
    webhook,
)

FOLDER = Path(__file__).parents[2] / "docs" / "diagrams"
AT = T0 + 60_000
STEPS_MAX = 7
"""Facts from `Absent` to the farthest state of the search. All transitions of the diagrams are found within five."""

COLUMNS_MAX = 120
SHORT = POLICY.model_copy(update={"retries_max": 1, "rejections_max": 1, "unpaid_ends_max": 1, "doubts_max": 1})
PAID = Usage(input_tokens=5, output_tokens=2, total_tokens=7)
OTHER_JOB = {"job_id": "other:job", "attempt": 1, "tenant": "other"}


@dataclass
class Edges:
    """What was seen between pairs of nodes."""

    facts: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    outputs: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def add(self, before: str, after: str, fact: str, outputs: Iterable[Message]) -> None:
        self.facts.setdefault((before, after), set()).add(fact)
        self.outputs.setdefault((before, after), set()).update(type(output).__name__ for output in outputs)

    def ordered(self, nodes: tuple[str, ...]) -> list[tuple[str, str]]:
        return sorted(self.facts, key=lambda pair: (nodes.index(pair[0]), nodes.index(pair[1])))


@dataclass(frozen=True)
class Machine:
    """One fold, as the search needs it."""

    absent: Any
    step: Callable[[Any, Any], Step[Any]]
    facts: Callable[[Any], Iterator[tuple[str, Message]]]
    """Sample facts for a state, each with its name in the diagram."""
    node: Callable[[Any], str]


def explore(machine: Machine, seen: Callable[[Any, Any], Iterable[tuple[str, str]]]) -> Edges:
    """Fold every sample fact into every state, from `Absent` on. `seen`: the pairs of nodes that a step connects."""
    edges = Edges()
    known = {_shape(machine.absent)}
    front = [machine.absent]
    for _ in range(STEPS_MAX):
        reached = []
        for state in front:
            for name, fact in machine.facts(state):
                result = machine.step(state, fact)
                if result.ignored is not None:
                    continue
                for before, after in seen(state, result.state):
                    edges.add(before, after, name, result.outputs)
                if _shape(result.state) not in known:
                    known.add(_shape(result.state))
                    reached.append(result.state)
        front = reached
    return edges


def _shape(state: Any) -> tuple[Any, ...]:
    match state:
        case job.Active() | job.BackingOff():
            kinds = tuple((item.kind, getattr(item, "given_up", None)) for item in state.attempts.items[-3:])
            spent = state.attempts.spent()
            counts = (spent.paid > 1, spent.refused > 1, spent.unpaid > 1, spent.doubtful > 1)
            hedged = (state.spec.policy.hedge, state.attempts.hedge is None)
            return (state.kind, kinds, counts, hedged, state.spec.request is None, getattr(state, "last", None))
        case job.Finished():
            return (state.kind, len(state.uncounted) > 0)
        case response.RunningResponse():
            sight = (state.sight.status, state.sight.told, state.sight.missing_since_ms is None)
            hedge = state.hedge and (state.hedge.permit is None)
            due = (state.poll_at_ms >= state.claim.last_poll_at_ms, state.poll_at_ms >= DEADLINE + FORGET_AFTER)
            return (state.kind, state.claim.made_elsewhere, state.released_at_ms is None, sight, due, hedge)
        case response.Unclaimed():
            return (state.kind, state.poll_at_ms is None)
        case response.Ended():
            return (state.kind, state.claim.made_elsewhere)
        case _:
            return (state.kind,)


def _job_facts(state: job.JobState) -> Iterator[tuple[str, Message]]:
    for policy in (POLICY, SHORT, POLICY.model_copy(update={"hedge": True})):
        yield "JobSubmitted", submitted(policy=policy)
    yield "JobSubmitted (waits)", submitted(turn=Turn(waits=True))
    yield "JobAdmitted", admitted(AT)
    yield "JobFoundTooLate", found_too_late(AT)
    yield "FallbackTaken", fallback_taken(AT)
    yield "ResponseAdopted", adopted()
    yield "JobRefused", refused()
    yield "CancelRequested", cancel_requested(AT)
    yield "JobChanged", job_changed(AT, priority="bulk", deadline_at_ms=DEADLINE)
    yield "JobChanged (deadline passed)", job_changed(AT, deadline_at_ms=AT)
    yield "AdoptionRefused", adoption_refused(AT)
    yield "JobErased", job_erased(AT)
    yield (
        "UsageBooked",
        UsageBooked(id="b", at_ms=AT, job_id="job_1", attempt=1, tenant="acme", response_id="r", usage=PAID),
    )
    last = state.attempts.last_number if isinstance(state, job.Active | job.BackingOff) else 1
    for number in range(1, last + 1):
        of = f"resp_{number}"
        yield "AttemptAccepted (running)", accepted(AT, number, of)
        yield "AttemptAccepted (running)", accepted(AT, number, f"{of}b")
        end = AttemptEnd(status="completed", response=submitted().request, usage=PAID)
        yield "AttemptAccepted (ended)", accepted(AT, number, of, end=end)
        for cause in ("limited", "never"):
            yield f"AttemptRejected ({'retry' if cause == 'limited' else 'never'})", rejected(AT, number, cause=cause)
        yield "AttemptUnknown", unknown(AT, number)
        yield "HedgePermitted", hedge_permitted(AT, number, of)
        for status in get_args(SettledStatus):
            for usage in (None, PAID):
                yield f"AttemptSettled ({status})", settled(AT, status, number, of, usage=usage)
    due = job.due_ms(state)
    if due is not None:
        yield "JobTimerFired (due)", job_timer(due)
        if not isinstance(state, job.Finished):
            yield "JobTimerFired (deadline)", job_timer(due, DEADLINE)


def _response_facts(state: response.ResponseState) -> Iterator[tuple[str, Message]]:
    yield "WebhookReceived", webhook(AT)
    yield "ResponseClaimed (of a create)", claimed(AT, stuck_after_ms=1_000)
    yield "ResponseClaimed (of a create)", claimed(AT, **OTHER_JOB)  # type: ignore[arg-type]
    yield "ResponseClaimed (of a create)", claimed(AT, hedge=HedgeTerms(model="m", at_ms=AT + 5_000))
    yield "ResponseClaimed (released)", claimed(AT, released=True)
    yield "ResponseClaimed (of an adoption)", claimed(AT, made_elsewhere=True)
    yield "ResponseClaimed (of an adoption)", claimed(AT, made_elsewhere=True, job_id="x")
    yield "ResponseReleased", released(AT)
    yield "ResponseDeadlineMoved", deadline_moved(AT, DEADLINE)
    yield "PollFailed", poll_failed(AT, next_poll_at_ms=AT + 1)
    for late_ms in (0, 200_000, 1_000_000):
        yield "ResponseObserved (running)", observed(AT + late_ms, "running", raw_status="queued")
        yield "ResponseObserved (missing)", observed(AT + late_ms, "missing")
        yield "ResponseObserved (odd)", observed(AT + late_ms, "odd", raw_status="paused")
    for status in ("completed", "failed", "incomplete", "cancelled"):
        yield "ResponseObserved (ended)", observed(AT, status, raw_status=status)
    adopted_elsewhere = isinstance(state, response.RunningResponse) and state.claim.made_elsewhere
    if isinstance(state, response.Unclaimed) or adopted_elsewhere:
        other: Any = OTHER_JOB
        yield "ResponseObserved (names another job)", observed(AT, raw_status="completed", **other)
    due = response.due_ms(state)
    if due is not None:
        yield "ResponseTimerFired", response_timer(due)
        yield "ResponseTimerFired", response_timer(due, next_poll_at_ms=DEADLINE + FORGET_AFTER)
        if isinstance(state, response.RunningResponse) and state.hedge is not None:
            yield "ResponseTimerFired (permits a hedge)", response_timer(due, permit=PERMIT)


def _job_node(state: job.JobState) -> str:
    return job.status(state)


def _response_node(state: response.ResponseState) -> str:
    released = isinstance(state, response.RunningResponse) and state.released_at_ms is not None
    return "released" if released else state.kind


def _attempts(state: Any) -> dict[int, str]:
    if not isinstance(state, job.Active | job.BackingOff):
        return {}
    return {item.number: _attempt_node(item) for item in state.attempts.items}


def _attempt_node(item: attempts.Attempt) -> str:
    match item:
        case attempts.OutcomeUnknown():
            return "outcome_unknown"
        case attempts.Over():
            return "given_up" if item.given_up else "over"
        case _:
            return item.kind


def _of_attempts(before: Any, after: Any) -> Iterator[tuple[str, str]]:
    """How each attempt moved. After the job's end there are no attempts: that is no transition of theirs."""
    if isinstance(after, job.Active | job.BackingOff):
        was, now = _attempts(before), _attempts(after)
        for number in was.keys() | now.keys():
            yield was.get(number, "absent"), now.get(number, "absent")


JOB = Machine(job.Absent(), job.step, _job_facts, _job_node)
RESPONSE = Machine(response.AbsentResponse(), response.step, _response_facts, _response_node)
JOB_NODES = ("absent", "waiting", "submitting", "unknown", "running", "backing_off", "finished")
ATTEMPT_NODES = ("absent", "submitting", "outcome_unknown", "running", "abandoned", "given_up", "over")
RESPONSE_NODES = ("absent", "unclaimed", "running", "released", "ended")


def edges_of(machine: Machine) -> Edges:
    return explore(machine, lambda before, after: [(machine.node(before), machine.node(after))])


def edges_of_attempts() -> Edges:
    return explore(JOB, _of_attempts)


HEAD = (
    "Made from the code by `make diagram`: `tests/support/state_diagrams.py` runs `step` over sample states and facts, "
    "and a unit test compares this page with what it finds. Do not edit it."
)


def job_page() -> str:
    jobs, tries = edges_of(JOB), edges_of_attempts()
    return "\n".join(
        [
            "# The states of a job",
            "",
            *_prose(HEAD),
            "",
            *_prose(
                "The code is `streams/fold/job.py` (transitions) and `streams/fold/job_states.py` (states). A job is "
                "*active* while an attempt is submitting, of unknown outcome, or running; in the diagram it has the "
                "name of the attempt that is furthest on."
                f" The outcome of a finished job is one of: {', '.join(JOB_OUTCOMES)}."
            ),
            "",
            *_diagram(jobs, JOB_NODES, ("state active {", *(f"    {name}" for name in JOB_NODES[2:5]), "}")),
            "",
            *_table(jobs, JOB_NODES),
            "",
            "## The states of an attempt",
            "",
            *_prose(
                "The code is `streams/fold/attempts.py`. The diagram shows the attempts of open jobs: an end that "
                "ends the job is not in it. A refused attempt leaves the job's list and is counted. *Given up*: its "
                "response is missing or stuck; if that completes after all, the job ends with it. *Abandoned*: its "
                "outcome stayed unknown past the grace; its response may still be adopted."
            ),
            "",
            *_diagram(tries, ATTEMPT_NODES, ()),
            "",
        ]
    )


def response_page() -> str:
    edges = edges_of(RESPONSE)
    return "\n".join(
        [
            "# The states of a response",
            "",
            *_prose(HEAD),
            "",
            *_prose(
                "The code is `streams/fold/response.py` (transitions) and `streams/fold/response_states.py` (states). "
                "*Released* is the state *running* with `released_at_ms`: its job is over or has given it up, so its "
                "timers make cancels instead of polls."
            ),
            "",
            *_diagram(edges, RESPONSE_NODES, ()),
            "",
            *_table(edges, RESPONSE_NODES),
            "",
        ]
    )


def _prose(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS_MAX)


def _diagram(edges: Edges, nodes: tuple[str, ...], nested: tuple[str, ...]) -> Iterator[str]:
    """Transitions from one node to another; those that keep the node stand in the table only."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield from (f"    {line}" for line in nested)
    for before, after in edges.ordered(nodes):
        if before != after:
            yield from _arrows(f"    {_end(before)} --> {_end(after)}: ", _named(edges.facts[before, after]))
    yield "```"


def _arrows(head: str, names: list[str]) -> Iterator[str]:
    """One arrow, or more where its label would make the line too long."""
    label = ""
    for name in names:
        longer = f"{label}<br/>{name}" if label else name
        if label and len(head) + len(longer) > COLUMNS_MAX:
            yield head + label
            longer = name
        label = longer
    yield head + label


def _table(edges: Edges, nodes: tuple[str, ...]) -> Iterator[str]:
    yield "| from | to | by | outputs, of which a step makes some or none |"
    yield "|---|---|---|---|"
    for before, after in edges.ordered(nodes):
        to = "(the same)" if before == after else after
        outputs = ", ".join(f"`{name}`" for name in sorted(edges.outputs[before, after])) or "none"
        yield f"| {before} | {to} | {', '.join(_named(edges.facts[before, after]))} | {outputs} |"


def _named(facts: set[str]) -> list[str]:
    """`A (x)` and `A (y)` as `A (x, y)`."""
    details: dict[str, list[str]] = {}
    for fact in sorted(facts):
        name, _, detail = fact.partition(" (")
        details.setdefault(name, []).append(detail.rstrip(")"))
    return [
        name if not any(found) else f"{name} ({', '.join(item for item in found if item)})"
        for name, found in details.items()
    ]


def _end(node: str) -> str:
    return "[*]" if node == "absent" else node


PAGES = {"job.md": job_page, "response.md": response_page}


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
        sys.stdout.write(f"{FOLDER / name}\n")


if __name__ == "__main__":
    main()
