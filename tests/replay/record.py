"""Record histories: `python -m tests.replay.record` writes the missing ones of `STORIES` and never rewrites one.

A story is a script of the facts that come from outside. Facts that one fold sends to the other follow, as they do live.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.base import BlobBody, InlineBody, Message, Usage
from tests.replay.histories import SUMS, V1, Refold, dump, record_line, replayed
from tests.support import builders as b
from tests.unit.streams.fold.states import waits

Story = Callable[[], Sequence[Message]]
T0 = b.T0
ANSWER = InlineBody(
    value={"id": b.RESP, "output": [{"text": "hé\u2028llo"}], "temperature": 1.0, "usage": {"total_tokens": 3}}
)


def told(facts: Sequence[Message]) -> bytes:
    """The story as a history: the facts that a fact causes come directly after it."""
    lines, refold, waiting = [], Refold(), list(facts)
    while waiting:
        fact = waiting.pop(0)
        line = record_line(fact)
        lines.append(line)
        done = refold.take(line["log"], line["key"], line["value"].encode())
        waiting[:0] = [output for output in done.outputs if output.topic in {"jobs", "responses"}]
    return dump(replayed(lines))


def webhook_then_poll() -> Sequence[Message]:
    return (
        b.submitted(session_id="s:1", tags=("a", "b")),
        b.accepted(T0 + 500, provider_request_id="req_1", sent_at_ms=T0 + 100),
        b.webhook(T0 + 9_000, ended_at_ms=T0 + 8_000),
        b.observed(
            T0 + 9_300, raw_status="completed", response=ANSWER, usage=Usage(total_tokens=3), job_id=b.JOB, attempt=1,
            tenant=b.TENANT, provider_created_at_ms=T0, provider_ended_at_ms=T0 + 8_000,
        ),
        b.webhook(T0 + 9_900),
        b.job_timer(T0 + 60_000),
        b.job_timer(T0 + 9_300 + b.FORGET_AFTER),
        b.response_timer(T0 + 9_300 + b.FORGET_AFTER),
    )  # fmt: skip


def webhook_lost() -> Sequence[Message]:
    return (
        b.submitted(request=BlobBody(sha256="ab" * 32, size_bytes=700_000)),
        b.accepted(T0 + 500),
        b.response_timer(T0 + 20_500),
        b.observed(T0 + 20_700, "running", raw_status="in_progress"),
        b.response_timer(T0 + 50_700),
        b.poll_failed(T0 + 51_000, next_poll_at_ms=T0 + 90_000),
        b.response_timer(T0 + 90_000),
        b.observed(T0 + 90_300, raw_status="completed", response=BlobBody(sha256="cd" * 32, size_bytes=80_000)),
    )


def webhook_before_the_claim() -> Sequence[Message]:
    return (
        b.submitted(),
        b.webhook(T0 + 400),
        b.webhook(T0 + 450),
        b.accepted(T0 + 500),
        b.observed(T0 + 700, "failed", cause="faulty", code="server_error", message="oops"),
        b.job_timer(T0 + 700 + waits("faulty", ended=1)),
        b.accepted(T0 + 2_000, 2, "resp_2"),
        b.webhook(T0 + 5_000, "wh_2", "resp_2"),
        b.observed(T0 + 5_100, "incomplete", "resp_2", code="max_output_tokens"),
    )


def rate_limited() -> Sequence[Message]:
    return (
        b.submitted(),
        b.rejected(T0 + 300, wait_ms=20_000),
        b.job_timer(T0 + 19_999),
        b.job_timer(T0 + 300 + waits("limited", told_ms=20_000, refused=1)),
        b.rejected(T0 + 30_500, 2, cause="overloaded", code="server_is_overloaded", http_status=503),
        b.job_timer(T0 + 30_500 + waits("overloaded", refused=2)),
        b.rejected(T0 + 40_000, 3, cause="never", code="invalid_value", http_status=400),
        b.accepted(T0 + 40_000, 2, "resp_odd"),
    )


def orphan_adopted() -> Sequence[Message]:
    due = T0 + 30_000 + 15_000
    return (
        b.submitted(),
        b.unknown(T0 + 5_000),
        b.webhook(T0 + 30_000),
        b.response_timer(due),
        b.observed(due + 100, "missing"),
        b.response_timer(due + 60_000),
        b.observed(due + 60_100, raw_status="completed", job_id=b.JOB, attempt=1, tenant=b.TENANT, response=ANSWER),
        b.observed(due + 60_200, raw_status="completed", job_id=b.JOB, attempt=1, tenant=b.TENANT, response=ANSWER),
    )


def abandoned_and_found_beside_its_successor() -> Sequence[Message]:
    lost = T0 + 60_000 + 120_000
    retry = lost + waits("faulty", ended=1)
    return (
        b.submitted(),
        b.job_timer(T0 + 60_000),
        b.job_timer(lost),
        b.job_timer(retry),
        b.accepted(retry + 300, 2, "resp_2"),
        b.accepted(retry + 900, 1, "resp_1", adopted=True),
        b.accepted(retry + 950, 2, "resp_2b", adopted=True),
        b.webhook(retry + 5_000, "wh_2", "resp_2"),
        b.observed(retry + 5_100, "completed", "resp_2", response=ANSWER),
        b.observed(retry + 5_300, "cancelled", "resp_1"),
        b.observed(retry + 5_400, "completed", "resp_1"),
        b.accepted(retry + 6_000, 1, "resp_1b", adopted=True),
    )


def deadline() -> Sequence[Message]:
    return (
        b.submitted(deadline_at_ms=T0 + 120_000),
        b.accepted(T0 + 500, poll_at_ms=T0 + 500_000),
        b.response_timer(T0 + 110_000),
        b.observed(T0 + 110_200, "running", raw_status="queued"),
        b.job_timer(T0 + 120_000, T0 + 120_040),
        b.observed(T0 + 120_300, "cancelled", raw_status="cancelled"),
    )


def cancelled_by_its_submitter() -> Sequence[Message]:
    return (
        b.submitted(),
        b.submitted(T0 + 10),
        b.submitted(T0 + 20, request_sha256="sha-2"),
        b.cancel_requested(T0 + 30, tenant="other"),
        b.cancel_requested(T0 + 40, reason="not needed"),
        b.cancel_requested(T0 + 50),
        b.accepted(T0 + 60),
        b.observed(T0 + 400, "cancelled"),
    )


def refused_at_the_ingress() -> Sequence[Message]:
    return (b.refused(), b.refused(T0 + 1), b.submitted(T0 + 2), b.job_timer(T0 + b.FORGET_AFTER))


def vanished_until_the_retries_are_used() -> Sequence[Message]:
    late = T0 + 200_000
    return (
        b.submitted(policy=b.POLICY.model_copy(update={"retries_max": 1})),
        b.accepted(T0 + 500),
        b.observed(T0 + 1_000, "missing"),
        b.observed(late - b.POLICY.missing_patience_ms, "missing"),
        b.observed(late, "missing"),
        b.job_timer(late + waits("faulty", ended=1)),
        b.accepted(late + 1_000, 2, "resp_2"),
        b.observed(late + 90_000, "missing", "resp_2"),
        b.observed(late + 90_000 + b.POLICY.missing_patience_ms, "missing", "resp_2"),
        b.job_timer(b.DEADLINE),
    )


def hedged_and_won_by_the_hedge() -> Sequence[Message]:
    slow, ask = b.POLICY.model_copy(update={"hedge": True}), T0 + 190_000
    return (
        b.submitted(policy=slow),
        b.accepted(T0 + 500, hedge_at_ms=ask),
        b.response_timer(T0 + 20_500, hedge_at_ms=ask),
        b.observed(T0 + 20_700, "running", raw_status="in_progress", next_poll_at_ms=T0 + 300_000),
        b.response_timer(ask, permit=b.PERMIT),
        b.observed(ask + 300, "running", raw_status="in_progress", next_poll_at_ms=T0 + 300_000),
        b.hedge_permitted(ask + 900),
        b.accepted(ask + 1_000, 2, "resp_2"),
        b.webhook(ask + 40_000, "wh_2", "resp_2"),
        b.observed(ask + 40_200, response_id="resp_2", response=ANSWER, usage=Usage(total_tokens=3)),
        b.observed(ask + 40_900, "cancelled", usage=Usage(input_tokens=5, total_tokens=5)),
        b.settled(ask + 41_000, "completed"),
    )  # fmt: skip


def foreign() -> Sequence[Message]:
    due = T0 + 15_000
    return (
        b.submitted(),
        b.webhook(T0, response_id="resp_x"),
        b.response_timer(due, response_id="resp_x"),
        b.observed(due + 50, "completed", "resp_x", job_id=b.JOB, attempt=1, tenant="other"),
        b.webhook(T0, response_id="resp_y"),
        b.response_timer(due, response_id="resp_y"),
        b.observed(due + 50, "completed", "resp_y"),
        b.response_timer(T0 + b.FORGET_AFTER, response_id="resp_y"),
    )


STORIES: tuple[Story, ...] = (
    webhook_then_poll,
    webhook_lost,
    webhook_before_the_claim,
    rate_limited,
    orphan_adopted,
    abandoned_and_found_beside_its_successor,
    deadline,
    cancelled_by_its_submitter,
    refused_at_the_ingress,
    vanished_until_the_retries_are_used,
    foreign,
    hedged_and_won_by_the_hedge,
)


def record(folder: Path, stories: Sequence[Story]) -> list[Path]:
    """Write the stories that have no file yet, and their digests; those that have one are left as they are."""
    folder.mkdir(exist_ok=True)
    written = []
    for story in stories:
        path = folder / f"{story.__name__}.jsonl"
        if path.exists():
            continue
        data = told(story())
        with path.open("xb") as file:
            file.write(data)
        with (folder / SUMS).open("a") as sums:
            sums.write(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
        written.append(path)
    return written


if __name__ == "__main__":
    for path in record(V1, STORIES):
        print(f"recorded {path}")
