"""Facts that were never written: what a poll would have seen, and the webhook of a response that never was. Pure."""

from typing import Any, Final

from backstop.audit.whatif.recorded import NO_BODY, Truth
from schemas.base import Message
from schemas.commands import CancelResponse, RetrieveResponse
from schemas.responses import ResponseObserved, WebhookReceived

FORGET_MS: Final = 86_400_000


def seen_at(
    truth: Truth, command: RetrieveResponse | CancelResponse, at_ms: int, age_ms: int, others_ended_ms: int | None,
    *, in_full: bool,
) -> ResponseObserved:  # fmt: skip
    """What the command would have seen at this age of the response.

    :param in_full: a response that is cancelled before its end counts with all tokens of its end, otherwise with none.
    """
    given: dict[str, Any] = {
        "id": f"{command.id}/observed", "at_ms": at_ms, "response_id": command.response_id, "command_id": command.id,
        "job_id": truth.job_id, "attempt": truth.attempt, "tenant": truth.tenant, "next_poll_at_ms": at_ms,
    }  # fmt: skip
    final = truth.final
    if truth.end_age_ms is None or age_ms < truth.end_age_ms:
        if isinstance(command, RetrieveResponse):
            return ResponseObserved(
                **given, outcome="running", raw_status="in_progress", others_ended_at_ms=others_ended_ms
            )
        usage = final.usage if final is not None and (in_full or truth.cancelled) else None
        return ResponseObserved(**given, outcome="cancelled", raw_status="cancelled", usage=usage)
    if final is None or truth.cancelled:
        # It was cancelled, and would have ended by itself: taken for completed, with tokens that are not known.
        return ResponseObserved(**given, outcome="completed", raw_status="completed", response=NO_BODY)
    # The provider's stamps stay: only their difference is read.
    return final.model_copy(update=given)


def webhook_of(response_id: str, outcome: str, at_ms: int, ended_ms: int) -> WebhookReceived:
    name = f"{response_id}/webhook"
    return WebhookReceived(
        id=name, at_ms=at_ms, response_id=response_id, webhook_id=name, event_type=f"response.{outcome}",
        sent_at_ms=at_ms, ended_at_ms=ended_ms, key_id="", raw="", claim_by_ms=at_ms + FORGET_MS,
        forget_after_ms=FORGET_MS,
    )  # fmt: skip


def of_a_cancel(fact: Message) -> bool:
    return isinstance(fact, WebhookReceived) and fact.event_type == "response.cancelled"
