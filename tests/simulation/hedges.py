"""Checks the hedges of a run from the log of jobs and the results alone: only jobs that asked have one, after a
permission, and it is won by the attempt whose completion comes first in the log.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from schemas.codec import PoisonError, decode
from schemas.jobs import JOB_FACT
from schemas.results import RESULT, JobResult
from tests.simulation.broker import Broker
from tests.simulation.chaos import Met


def judge_hedges(broker: Broker, met: Met) -> Iterator[str]:
    """What is wrong, a sentence each."""
    facts = _facts(broker)
    for log in broker.results:
        for _, job_id, value in log.records:
            result = decode(RESULT, value)
            of_job = facts[job_id]
            if result.hedge is None:
                continue
            met.add(_how(result))
            if not any(fact.type == "hedge_permitted" for fact in of_job):
                yield f"{job_id} was hedged without a permission"
            if not any(fact.type == "job_submitted" and fact.policy.hedge for fact in of_job):
                yield f"{job_id} was hedged, and did not ask for it"
            yield from _winner(result, of_job)
    for of_job in facts.values():
        if len({fact.id for fact in of_job if fact.type == "hedge_permitted"}) > 1:
            met.add("hedge permitted again")


def _facts(broker: Broker) -> dict[str, list[Any]]:
    facts: dict[str, list[Any]] = defaultdict(list)
    for log in broker.of_topic("jobs"):
        for record in log.records:
            try:
                fact = decode(JOB_FACT, record.value)
            except PoisonError:
                continue
            facts[fact.job_id].append(fact)
    return facts


def _winner(result: JobResult, facts: list[Any]) -> Iterator[str]:
    known = {brief.response_id: brief.attempt for brief in result.attempts if brief.response_id}
    first = next((attempt for attempt in _completions(facts) if attempt in known), None)
    winner = known.get(first) if first is not None else None
    told = result.hedge
    assert told is not None, "the caller looked"
    expected = {told.attempt: "hedge", told.beside: "first"}.get(winner or 0)
    if result.outcome == "completed" and told.won != expected:
        yield f"{result.job_id}: attempt {winner} completed first in the log, and {told.won} is said to have won"


def _completions(facts: list[Any]) -> Iterator[str]:
    """The responses that completed, in the order of the log."""
    for fact in facts:
        if fact.type == "attempt_settled" and fact.status == "completed":
            yield fact.response_id
        if fact.type == "attempt_accepted" and fact.end is not None and fact.end.status == "completed":
            yield fact.response_id


def _how(result: JobResult) -> str:
    hedge = result.hedge
    assert hedge is not None, "the caller looked"
    briefs = {brief.attempt: brief.outcome for brief in result.attempts}
    other = {"hedge": hedge.beside, "first": hedge.attempt}.get(hedge.won or "")
    if other is None:
        return f"hedge decided nothing: {result.outcome}"
    return f"hedge: {hedge.won} won, the other one {briefs.get(other, 'refused')}"
