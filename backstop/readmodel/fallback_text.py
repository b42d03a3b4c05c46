"""Which models a job went on with, and why, in sentences. Pure."""

from collections.abc import Sequence

from schemas.fallbacks import FallbackBrief
from streams.fold.job_fallbacks import fallback_left
from streams.fold.job_states import Spec


def fallbacks_told(taken: Sequence[FallbackBrief]) -> list[str]:
    """One sentence about all fallbacks that a job took."""
    if not taken:
        return []
    each = [
        f"with {brief.model}{'' if brief.service_tier is None else f' (service tier {brief.service_tier})'} instead of "
        f"{brief.instead_of} from attempt {brief.from_attempt} on, as {_why(brief)}"
        for brief in taken
    ]
    return [f"The job went on {', then '.join(each)}"]


def fallback_ahead(spec: Spec) -> list[str]:
    """What becomes of a job that waits for a closed lane."""
    to = fallback_left(spec)
    if to is None or spec.fallback is None:
        return []
    return [f"If creates of {spec.model} are held for {spec.fallback.after_ms // 1_000} s, it goes on with {to.model}"]


def _why(brief: FallbackBrief) -> str:
    match brief.why:
        case "lane":
            return brief.message
        case "refused":
            return f"that refused for good: {brief.message}"
