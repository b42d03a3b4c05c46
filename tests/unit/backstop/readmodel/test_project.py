import itertools
import json

import pytest

from backstop.readmodel.batch import Known, Writes, project
from backstop.readmodel.project import evolve
from backstop.readmodel.rows import JobRow, Position
from schemas.jobs import JobFact
from streams.fold.rows import decode_job_state
from streams.fold.step import Ignored
from tests.unit.backstop.readmodel.logs import (
    DEADLINE_MS,
    PROMPT,
    Log,
    accepted,
    cancelled,
    claimed,
    observed,
    refused,
    rejected,
    result_of,
    settled,
    submitted,
    timer,
    unknown,
    webhook,
    whole_job,
)

AT = Position("jobs", 0, 0)


def row_after(*facts: JobFact) -> JobRow:
    row: JobRow | None = None
    for offset, fact in enumerate(facts):
        row = evolve(row, fact, Position("jobs", 0, offset)).row
    assert row is not None
    return row


def test_a_submission_begins_a_row_that_is_submitting() -> None:
    row = row_after(submitted(tags=("a", "b"), session_id="s"))
    assert (row.status, row.version, row.tenant, row.model, row.session_id, row.tags) == (
        "submitting", 1, "default", "gpt-5", "s", ("a", "b"),
    )  # fmt: skip
    assert row.submitted_at_ms == 1_000
    assert row.deadline_at_ms == DEADLINE_MS
    assert row.next_action_at_ms is not None
    assert 1_000 < row.next_action_at_ms < DEADLINE_MS
    assert row.attempts == 1


@pytest.mark.parametrize(
    ("fact", "status"),
    [
        (accepted(), "running"),
        (rejected(), "backing_off"),
        (unknown(), "unknown"),
        (rejected(cause="never"), "finishing"),
        (cancelled(), "finishing"),
    ],
    ids=["accepted", "rejected", "unknown", "refused for good", "cancelled"],
)
def test_the_status_is_the_folds_own(fact: JobFact, status: str) -> None:
    assert row_after(submitted(), fact).status == status


def test_a_row_keeps_the_state_of_the_fold() -> None:
    row = row_after(submitted(), accepted())
    state = decode_job_state(row.fold_state)
    assert state.kind == "active"
    assert state.attempts.response_ids() == ("resp_1",)


def test_a_repeated_submission_leaves_the_row_as_it_is() -> None:
    row = row_after(submitted(), accepted())
    assert evolve(row, submitted(at_ms=5_000), AT).row is row
    assert evolve(row, submitted(at_ms=5_000), AT).ignored is Ignored.DUPLICATE


def test_a_fact_of_no_job_begins_no_row() -> None:
    for fact in (accepted(), rejected(), unknown(), settled(), cancelled(), timer()):
        evolved = evolve(None, fact, AT)
        assert evolved.row is None
        assert evolved.ignored is Ignored.UNKNOWN_KEY


def test_nothing_after_the_end_changes_a_row() -> None:
    row = row_after(submitted(), accepted(), settled())
    assert row.status == "finishing"
    assert row.next_action_at_ms is None
    state = decode_job_state(row.fold_state)
    assert state.kind == "finished"
    for fact in (accepted(response_id="resp_2"), timer(due_ms=state.forget_at_ms), submitted(), cancelled()):
        assert evolve(row, fact, AT).row is row


def test_the_version_counts_the_facts_that_were_taken() -> None:
    assert row_after(submitted(), submitted(), accepted(), accepted(), timer(due_ms=3)).version == 2


def test_a_refused_job_has_a_row_without_a_model() -> None:
    row = row_after(refused())
    assert (row.status, row.model, row.request_sha256, row.version) == ("finishing", None, None, 1)


def projected(facts: list, known: Known | None = None) -> Writes:
    return project(Log().put(*facts), known or Known())


def test_the_result_makes_the_row_terminal_and_fills_the_columns_of_the_statistics() -> None:
    facts = [submitted(), accepted(), settled()]
    row = projected([*facts, result_of(*facts)]).rows["j"]
    assert (row.status, row.version, row.found_by, row.attempts) == ("completed", 4, "webhook", 1)
    assert (row.queued_ms, row.running_ms, row.webhook_lag_ms, row.detection_ms) == (1_000, 6_000, 900, 1_000)
    assert (row.input_tokens, row.output_tokens, row.finished_at_ms) == (5, 7, 9_000)
    assert row.position == Position("results", 0, 0)


def test_a_result_that_overtakes_its_jobs_facts_is_held_and_the_row_comes_out_the_same() -> None:
    facts = [submitted(), accepted(), settled(), timer(at_ms=9_500)]
    result = result_of(*facts)
    rows = set()
    for place in range(len(facts) + 1):
        writes = projected([*facts[:place], result, *facts[place:]])
        rows.add(writes.rows["j"])
        assert writes.held == {}
        assert writes.repeated_results == []
    assert len(rows) == 1
    assert rows.pop().status == "completed"


def test_a_result_without_its_jobs_end_is_held() -> None:
    facts = [submitted(), accepted(), settled()]
    writes = projected([submitted(), result_of(*facts)])
    assert writes.rows["j"].status == "submitting"
    assert set(writes.held) == {"j"}


def test_a_second_result_changes_nothing_and_is_told() -> None:
    facts = [submitted(), accepted(), settled()]
    result = result_of(*facts)
    once = projected([*facts, result])
    twice = projected([*facts, result, result.model_copy(update={"outcome": "failed"})])
    assert twice.rows == once.rows
    assert twice.repeated_results == ["j"]


def test_a_webhook_before_its_claim_waits_for_the_job_and_joins_its_timeline() -> None:
    writes = projected([webhook(), claimed(), observed()])
    assert [entry.kind for entry in writes.timeline] == ["webhook_received", "response_claimed", "response_observed"]
    assert {entry.job_id for entry in writes.timeline} == {"j"}
    assert writes.unclaimed == []


def test_an_unclaimed_webhook_is_on_no_timeline() -> None:
    writes = projected([webhook("resp_9"), claimed(response_id="resp_1")])
    assert [entry.kind for entry in writes.timeline] == ["response_claimed"]
    assert [entry.response_id for entry in writes.unclaimed] == ["resp_9"]


def test_the_timeline_says_why_a_fact_changed_nothing() -> None:
    writes = projected([submitted(), submitted()])
    summaries = [json.loads(entry.summary) for entry in writes.timeline]
    assert [summary.get("ignored") for summary in summaries] == [None, "duplicate"]


def test_no_prompt_output_or_text_of_the_provider_is_on_a_timeline() -> None:
    facts = [submitted(), accepted(), settled(output=PROMPT)]
    everything = [
        *facts,
        result_of(*facts),
        webhook(),
        claimed(),
        observed(),
        rejected(),
        refused(),
        unknown(),
        cancelled(),
    ]
    writes = projected(everything)
    assert len(writes.timeline) == len(everything)
    for entry in writes.timeline:
        assert b"canary" not in entry.summary


def test_topics_may_be_read_at_any_speed_and_in_any_batches() -> None:
    """Every way to interleave the three topics gives the same rows and the same timeline."""
    records = Log().put(*whole_job("j", "resp_1"))
    topics = {name: [r for r in records if r.position.topic == name] for name in ("jobs", "responses", "results")}
    outcomes = set()
    order = [name for name, of in topics.items() for _ in of]
    for picks in set(itertools.permutations(order)):
        queues = {name: iter(of) for name, of in topics.items()}
        writes = project([next(queues[name]) for name in picks], Known())
        outcomes.add((writes.rows["j"], frozenset(writes.timeline)))
    assert len(outcomes) == 1
