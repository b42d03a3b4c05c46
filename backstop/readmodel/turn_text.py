"""Where a job stands in its queue, in one form for the API, lists, events, page and command line. Pure."""

from backstop.readmodel.answers import TurnView
from backstop.readmodel.rows import Place


def placed(place: Place, tenant: str) -> str:
    """`tokens_per_min of gpt-6, about 40 s, place 312 of 4,100 (bulk)`."""
    reason, lane = place.reason or "turn", place.model
    if reason.startswith("tenant_"):
        reason, lane = reason.removeprefix("tenant_"), f"tenant {tenant} on {lane}"
    about = "time unknown" if place.about_ms is None else f"about {span(place.about_ms)}"
    stands = f"beyond place {place.place:,}" if place.beyond else f"place {place.place:,} of {place.waiting:,}"
    return f"{reason} of {lane}, {about}, {stands} ({place.priority})"


def turn_of(place: Place) -> TurnView:
    view: TurnView = {"priority": place.priority, "place": place.place, "waiting": place.waiting}
    if place.reason is not None:
        view["reason"] = place.reason
    if place.about_ms is not None:
        view["about_ms"] = place.about_ms
    return view


def span(span_ms: int) -> str:
    """In the unit that a reader would take."""
    seconds = max(0, span_ms) // 1000
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7_200:
        return f"{seconds // 60} min"
    return f"{seconds // 3_600} h {seconds % 3_600 // 60} min"
