"""Reports that come after the timer that counted their attempt, and responses that are named twice.

What the provider took is not repeated, and may win while the job is open. What it refused takes no retry. Pure.
"""

from dataclasses import replace

from schemas.jobs import AdoptionRefused, AttemptAccepted, AttemptRejected, AttemptUnknown
from schemas.results import Reason
from streams.fold.attempts import Abandoned, OutcomeUnknown, Over, Running, Submitting
from streams.fold.claims import claim_for
from streams.fold.job_hedges import terms_of
from streams.fold.job_next import finish, refused
from streams.fold.job_states import Active, BackingOff, JobState, Open
from streams.fold.step import Ignored, Step


def unknown_late(state: Open, attempt: OutcomeUnknown | Abandoned, event: AttemptUnknown) -> Step[JobState]:
    """The outcome stays unknown, but the report tells whether the provider took the create, or answered it.

    An abandoned attempt that was taken is waited for again: a retry that has not begun does not begin.
    """
    taken = isinstance(attempt, OutcomeUnknown) and attempt.taken
    if taken or not (event.taken or (event.answered and not attempt.answered)):
        return Step(state, ignored=Ignored.STALE)
    answered = attempt.answered or event.answered is True
    attempts = state.attempts
    if isinstance(attempt, OutcomeUnknown):
        known = replace(attempt, answered=answered, said=event.message, taken=event.taken is True)
        return Step(replace(state, attempts=attempts.learn(known)))
    if not event.taken:
        if attempts.doubts >= state.spec.policy.doubts_max:
            return Step(state, ignored=Ignored.STALE)  # It stays paid: else late reports would grant ever more retries.
        return Step(replace(state, attempts=attempts.doubt(attempt)))
    waited_for = OutcomeUnknown(attempt.number, event.at_ms, answered, event.message, taken=True)
    attempts = attempts.find(attempt).learn(waited_for)
    return Step(Active(state.spec, attempts) if attempts.awaited() else replace(state, attempts=attempts))


def refused_late(state: Open, attempt: Abandoned, event: AttemptRejected) -> Step[JobState]:
    """An abandoned attempt was refused, so it takes no retry. The one that it was granted stays."""
    attempts = state.attempts.reject(attempt.number)
    if event.cause == "held":
        attempts = attempts.find(attempt)
    elif attempts.rejections < state.spec.policy.rejections_max:  # Else it stays paid, as above.
        attempts = attempts.find(attempt).count(attempt.number, "refused", event.cause)
    after = replace(state, attempts=attempts)
    if isinstance(state, BackingOff) and state.last and not attempts.abandoned():
        return finish(after, event, "failed", state.why)  # It waited for this attempt alone.
    return Step(after)


def found_after_all(state: Open, event: AttemptAccepted) -> Step[JobState]:
    """The response of an attempt that was refused, before the next one began: it takes that one's place."""
    running = Running(event.attempt, event.response_id, event.at_ms, event.adopted)
    attempts = state.attempts.restore(running)
    claim = claim_for(event, state.spec, hedge=terms_of(event, state.spec, state.attempts))
    return Step(Active(state.spec, attempts), (claim,))


def named_again(state: Open, known: Running | Over, event: AttemptAccepted) -> Step[JobState]:
    """The create of one attempt is answered with the response of another, as caches do: it made none."""
    attempt = state.attempts.get(event.attempt)
    if known.number == event.attempt or not isinstance(attempt, Submitting | OutcomeUnknown):
        return Step(state, ignored=Ignored.DUPLICATE)
    message = f"the provider named the response of attempt {known.number} again"
    return refused(state, attempt.number, event, "later", Reason(code="response_repeated", message=message))


def given_to_another(state: Open, attempt: Running, event: AdoptionRefused) -> Step[JobState]:
    """The response belongs to another job: the provider, or a cache before it, named one response twice."""
    message = f"the provider named a response that it had given out before. {event.message}"
    return refused(state, attempt.number, event, "never", Reason(code="response_taken", message=message))
