"""Which model a job's next attempts go out with, and why another one than the request's. Pure.

Rules:
- A job takes its fallbacks in their order, each once. None is taken while an attempt lives.
- One is taken where the model refuses for good (`refused`), or by a fact of the scheduler, once the model's lane has
  been closed for longer than the job waits for it (`lane`). The job then waits for its turn as any other of that model.
- A fallback grants nothing: retries, deadline and cap of the job stay what they are.
"""

from collections.abc import Sequence
from dataclasses import replace

from schemas.fallbacks import Fallback, FallbackBrief, FallbackWhy
from schemas.jobs import FallbackTaken
from streams.fold.attempts import Attempts
from streams.fold.job_states import BackingOff, JobState, Open, Spec, Waiting
from streams.fold.step import Ignored, Step

MESSAGE_CHARS_MAX = 300


def fallback_left(spec: Spec) -> Fallback | None:
    """The next fallback of the job; None if it has none left, or none at all."""
    if spec.fallback is None or spec.request is None or len(spec.fell) >= len(spec.fallback.to):
        return None
    return spec.fallback.to[len(spec.fell)]


def fallen(spec: Spec, attempts: Attempts, why: FallbackWhy, message: str) -> Spec | None:
    """The job with its next fallback; None if none is left."""
    to = fallback_left(spec)
    if to is None:
        return None
    brief = FallbackBrief(
        model=to.model, service_tier=to.service_tier, instead_of=spec.model, from_attempt=attempts.last_number + 1,
        why=why, message=message[:MESSAGE_CHARS_MAX],
    )  # fmt: skip
    return replace(spec, model=to.model, fell=(*spec.fell, brief))


def fallback_taken(state: Open, event: FallbackTaken) -> Step[JobState]:
    """The scheduler found the lane closed for too long."""
    late = event.at_ms >= state.spec.deadline_at_ms
    waits = isinstance(state, Waiting) or (isinstance(state, BackingOff) and not state.last)
    if late or not waits or event.number != len(state.spec.fell) + 1:
        return Step(state, ignored=Ignored.STALE)
    message = f"creates of {state.spec.model} have been held for {event.closed_ms // 1_000} s: {event.code}"
    spec = fallen(state.spec, state.attempts, "lane", message)
    return Step(state, ignored=Ignored.STALE) if spec is None else Step(replace(state, spec=spec))


def asked_of_attempt(fell: Sequence[FallbackBrief], number: int) -> Fallback | None:
    """What the attempt `number` asked for instead of what the request says; None for nothing."""
    brief = next((each for each in reversed(fell) if each.from_attempt <= number), None)
    return None if brief is None else Fallback(model=brief.model, service_tier=brief.service_tier)


def model_of_attempt(spec: Spec, number: int) -> str:
    """The model that the attempt `number` asked for."""
    return next((each.instead_of for each in spec.fell if each.from_attempt > number), spec.model)
