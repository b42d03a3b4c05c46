"""What the attempts of a job with a cap have spent, and whether a further one may begin. Pure.

Rules: `streams.policy.caps`.
"""

from dataclasses import replace

from schemas.base import Terms, Usage
from schemas.results import Reason
from streams.fold.attempts import Attempt, Attempts, Over
from streams.fold.job_states import Spec
from streams.policy.caps import Spendings, calls_pico, cost_pico, spendings, tokens_of, why_none


def capped(spec: Spec, attempts: Attempts, last: Reason | None = None) -> Reason | None:
    """Why the job's cap permits no further attempt; None if it permits one.

    :param last: why the attempt before ended.
    """
    if spec.cap is None:
        return None
    known, beside = attempts.usages(), Spendings(attempts.beside_tokens, attempts.beside_pico)
    spent = spendings(spec.cap, known, sum(_guessed(item) for item in attempts.items), beside)
    why = why_none(spec.cap, known, spent)
    if why is None:
        return None
    before = "" if last is None else f"; its last attempt: {last.code} {last.message}".rstrip()
    return Reason(code="cost_cap", message=f"{why}{before}")


def with_calls(spec: Spec, attempts: Attempts, terms: Terms | None) -> Attempts:
    """`attempts`, with what calls of tools cost that an attempt made which is now measured."""
    pico = 0 if spec.cap is None else calls_pico(spec.cap.prices, terms)
    return replace(attempts, beside_pico=attempts.beside_pico + pico) if pico else attempts


def with_second(spec: Spec, attempts: Attempts, usage: Usage, terms: Terms | None) -> Attempts:
    """`attempts`, with what a second response of one of them used."""
    if spec.cap is None:
        return attempts
    return replace(
        attempts,
        beside_tokens=attempts.beside_tokens + tokens_of(usage),
        beside_pico=attempts.beside_pico + cost_pico(spec.cap.prices, usage, terms),
    )


def _guessed(item: Attempt) -> bool:
    """Whether the attempt may have been taken, and its usage is not known."""
    return not isinstance(item, Over) or (item.usage is None and item.status != "failed")
