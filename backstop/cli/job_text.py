"""PURE: jobs as text for a terminal."""

from datetime import UTC, datetime
from typing import Any, Final

import orjson

COLUMNS: Final = ("job_id", "status", "model", "age", "attempts", "found_by", "next_action", "because")
REASON_COLUMNS: Final = ("count", "jobs", "because", "since", "example", "message")
FACT_COLUMNS: Final = ("at", "kind", "where", "summary")


def job_row(job: dict[str, Any], now_ms: int) -> dict[str, Any]:
    """One line of a list."""
    return {
        "job_id": job.get("job_id"),
        "status": job.get("status"),
        "model": job.get("model"),
        "age": span(now_ms - int(job.get("submitted_at_ms", now_ms))),
        "attempts": job.get("attempts"),
        "found_by": job.get("found_by"),
        "next_action": next_action(job.get("waiting"), now_ms),
        "because": _short(job.get("waiting"), job.get("reason")),
    }


def next_action(waiting: Any, now_ms: int) -> str | None:
    """What an open job waits for, and until when: `retry in 4.0s`, `webhook`."""
    if not isinstance(waiting, dict):
        return None
    until_ms = waiting.get("until_ms")
    if not isinstance(until_ms, int):
        return str(waiting.get("for"))
    left_ms = until_ms - now_ms
    return f"{waiting.get('for')} " + (f"in {span(left_ms)}" if left_ms >= 0 else f"due {span(-left_ms)} ago")


def waiting_text(waiting: Any) -> str:
    """What an open job waits for, in one line."""
    if not isinstance(waiting, dict):
        return ""
    because = waiting.get("because")
    said = _reason(because) if isinstance(because, dict) else ""
    return f"{waiting.get('for')}, since {clock(waiting.get('since_ms'))}" + (f" ({said})" if said else "")


def _short(waiting: Any, reason: Any) -> str | None:
    """The code of the reason why a job waits, or why it ended."""
    because = waiting.get("because") if isinstance(waiting, dict) else reason
    return because.get("code") if isinstance(because, dict) else None


def reason_rows(found: dict[str, Any], now_ms: int) -> list[dict[str, Any]]:
    """The groups of `GET /v1/reasons`: open jobs first."""
    return [
        {
            "count": group.get("count"),
            "jobs": f"wait for {group['for']}" if "for" in group else group.get("status"),
            "because": group.get("code"),
            "since": f"{span(now_ms - int(group.get('since_ms', group.get('ended_at_ms', now_ms))))} ago",
            "example": next(iter(group.get("job_ids", ())), None),
            "message": group.get("message") or None,
        }
        for group in (*found.get("waiting", ()), *found.get("ended", ()))
    ]


def fact_row(fact: dict[str, Any]) -> dict[str, Any]:
    """One fact of a timeline, with topic, partition and offset of its record."""
    summary = fact.get("summary")
    return {
        "at": clock(fact.get("at_ms")),
        "kind": fact.get("kind"),
        "where": f"{fact.get('topic')}:{fact.get('partition')}:{fact.get('offset')}",
        "summary": ", ".join(f"{name} {_plain(value)}" for name, value in summary.items())
        if isinstance(summary, dict)
        else summary,
    }


def change_line(job: dict[str, Any]) -> str:
    """One change of a job that is followed."""
    parts = [clock(job.get("updated_at_ms")), str(job.get("status"))]
    if job.get("attempts"):
        parts.append(f"attempt {job['attempts']}")
    if job.get("waiting"):
        parts.append(f"waits for {waiting_text(job['waiting'])}")
    if job.get("next_action_at_ms"):
        parts.append(f"next action at {clock(job['next_action_at_ms'])}")
    if job.get("found_by"):
        parts.append(f"found by {job['found_by']}")
    return "  ".join(parts)


def job_text(job: dict[str, Any]) -> str:
    """A job, its result and its output, on several lines."""
    result = job.get("result") if isinstance(job.get("result"), dict) else {}
    assert isinstance(result, dict)
    lines = [
        ("job", job.get("job_id")),
        ("status", job.get("status")),
        ("model", job.get("model")),
        ("submitted", clock(job.get("submitted_at_ms"), day=True)),
        ("deadline", clock(job.get("deadline_at_ms"), day=True)),
        ("priority", job.get("priority")),
        ("repeats", job.get("retry_of")),
        ("waits for", waiting_text(job.get("waiting"))),
        ("next action", clock(job.get("next_action_at_ms"), day=True)),
        ("finished", clock(job.get("finished_at_ms"), day=True)),
        ("found by", job.get("found_by")),
        ("attempts", _attempts(job, result)),
        ("fallback", _fallbacks(result.get("fallbacks"))),
        ("hedge", _hedge(result.get("hedge"))),
        ("timings", _timings(result.get("timings"))),
        ("cost", _cost(job.get("cost"))),
        ("usage", _compact(result.get("usage"))),
        ("reason", _reason(result.get("reason") or job.get("reason"))),
    ]
    text = "\n".join(f"{name + ':':<13}{value}" for name, value in lines if value not in (None, "", "-"))
    output = output_text(job)
    return text + (f"\n\n{output}" if output else "")


def output_text(job: dict[str, Any]) -> str:
    """The output text of the provider's response, where the job has one."""
    result = job.get("result")
    response = result.get("response") if isinstance(result, dict) else None
    output = response.get("output") if isinstance(response, dict) else None
    return "\n".join(_texts(output)) if isinstance(output, list) else ""


def _texts(output: list[Any]) -> list[str]:
    return [
        str(part["text"])
        for item in output
        if isinstance(item, dict)
        for part in item.get("content") or []
        if isinstance(part, dict) and part.get("type") == "output_text" and "text" in part
    ]


def _attempts(job: dict[str, Any], result: dict[str, Any]) -> str:
    briefs = result.get("attempts")
    if not isinstance(briefs, list) or not briefs:
        return str(job.get("attempts") or "")
    return "; ".join(
        f"{brief.get('attempt')} {brief.get('outcome')}"
        + (f" {brief['response_id']}" if brief.get("response_id") else "")
        + (" (adopted)" if brief.get("adopted") else "")
        for brief in briefs
    )


def _fallbacks(fallbacks: Any) -> str:
    """`gpt-b from attempt 2, instead of gpt-a: creates of gpt-a have been held for 61 s`."""
    if not isinstance(fallbacks, list):
        return ""
    return "; ".join(
        f"{each.get('model')} from attempt {each.get('from_attempt')}, instead of {each.get('instead_of')}: "
        f"{each.get('message')}"
        for each in fallbacks
    )


def _hedge(hedge: Any) -> str:
    """Which of two attempts won: `attempt 2 beside 1, after 5m; the hedge won, ahead by 40.0s`."""
    if not isinstance(hedge, dict):
        return ""
    begun = f"attempt {hedge.get('attempt')} beside {hedge.get('beside')}, after {span(hedge.get('begun_after_ms', 0))}"
    won = {"hedge": "the hedge won", "first": f"attempt {hedge.get('beside')} won"}.get(str(hedge.get("won")))
    ahead = f", ahead by {span(hedge['ahead_ms'])}" if hedge.get("ahead_ms") is not None else ""
    return f"{begun}; {won or 'neither won'}{ahead}"


def _timings(timings: Any) -> str:
    if not isinstance(timings, dict):
        return ""
    names = ("queued_ms", "running_ms", "webhook_lag_ms", "detection_ms")
    return ", ".join(
        f"{name.removesuffix('_ms')} {span(timings[name])}" for name in names if timings.get(name) is not None
    )


def _cost(cost: Any) -> str:
    """Dollars over all attempts, and how many attempts are not in them."""
    if not isinstance(cost, dict):
        return ""
    known = f"${cost['cost_usd']}" if "cost_usd" in cost else "unknown"
    missing = [f"{cost[name]} {name}" for name in ("unmeasured", "unpriced") if cost.get(name)]
    return f"{known} ({', '.join(missing)})" if missing else known


def _reason(reason: Any) -> str:
    if not isinstance(reason, dict):
        return ""
    return ": ".join(str(reason[name]) for name in ("code", "message") if reason.get(name))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _compact(value)


def _compact(value: Any) -> str:
    return orjson.dumps(value).decode() if value is not None else ""


def clock(at_ms: Any, *, day: bool = False) -> str:
    """A time of day in UTC, to the millisecond; the number itself where it is no valid date."""
    if not isinstance(at_ms, int):
        return "-"
    try:
        when = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    except (OverflowError, ValueError, OSError):  # a foreign record's timestamp may be any 64-bit number
        return f"{at_ms} ms"
    return when.strftime("%Y-%m-%d " if day else "") + when.strftime("%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def span(ms: int) -> str:
    """A duration in a fitting unit; negative for the past."""
    sign, size = ("-", -ms) if ms < 0 else ("", ms)
    if size < 1_000:
        return f"{sign}{size}ms"
    if size < 120_000:
        return f"{sign}{size / 1000:.1f}s"
    if size < 2 * 3_600_000:
        return f"{sign}{size // 60_000}m"
    return f"{sign}{size // 3_600_000}h"
