"""A what-if against the truth: runs of the real parts under two policies, and replays of each under the other's.

Tolerances, for 40 jobs: polls 3 %, the mean detection 0.25 s, as the provider tells the end in whole seconds.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from backstop.audit.bundle import write_bundle
from backstop.audit.whatif.compare import compare
from backstop.audit.whatif.figures import Figures, recorded_figures
from backstop.audit.whatif.policy import Policy, Polling, RetryBudgets
from backstop.audit.whatif.recorded import RangeReading, Recorded, ReplayRangeError
from backstop.audit.whatif.replay import Replay
from backstop.cli.audit import app
from backstop.runtime.records import Record
from schemas.base import Usage
from schemas.codec import decode, encode
from schemas.jobs import JOB_FACT, AttemptSettled, UsageBooked
from streams.policy.polls import PollPolicy
from tests.simulation.calm import Scene, calm_run, records_of
from tests.simulation.run import simulate

SCENE = Scene(jobs=40, failed=0.3)
# With and without webhooks these policies are the same, as the workers of the simulation hear none.
DENSE = PollPolicy(first_poll_ms=500, spacing_factor=0.1, spacing_min_ms=800, spacing_max_ms=60_000)
SPARSE = PollPolicy(first_poll_ms=1_000, spacing_factor=0.25, spacing_min_ms=1_000, spacing_max_ms=15_000)
MANY, NONE = 3, 0
POLLS_SHARE, DETECTION_MS = 0.03, 250


@cache
def run(polls: PollPolicy, unpaid_ends_max: int) -> tuple[Record, ...]:
    return tuple(calm_run(SCENE, polls, retries={"unpaid_ends_max": unpaid_ends_max}))


def read(records: tuple[Record, ...]) -> Recorded:
    reading = RangeReading(0, 1 << 50)
    for _, batch in groupby(records, key=lambda record: (record.topic, record.partition)):
        reading.take(list(batch))
    return reading.done()


def polling(of: PollPolicy) -> Polling:
    return Polling(
        first_poll_ms=of.first_poll_ms, spacing_factor=of.spacing_factor, spacing_min_ms=of.spacing_min_ms,
        spacing_max_ms=of.spacing_max_ms,
    )  # fmt: skip


def mean_ms(values: list[int]) -> float:
    return sum(values) / len(values)


def assert_near(found: Figures, truth: Figures) -> None:
    assert found.outcomes == truth.outcomes
    assert found.creates == truth.creates
    assert abs(found.polls - truth.polls) <= POLLS_SHARE * truth.polls
    assert abs(mean_ms(found.detection_ms) - mean_ms(truth.detection_ms)) <= DETECTION_MS
    assert abs(mean_ms(found.total_ms) - mean_ms(truth.total_ms)) <= 2 * DETECTION_MS


def test_the_same_policy_gives_the_counts_of_the_log() -> None:
    recorded = read(run(SPARSE, MANY))
    same = Policy(polling=polling(SPARSE), retry=RetryBudgets(unpaid_ends_max=MANY))
    found = compare(recorded, same)
    assert found.likely.figures.counts() == recorded_figures(recorded).counts()
    assert found.exact
    assert (found.likely.estimated_polls, found.likely.moved_creates) == (0, 0)
    assert found.recorded.polls > SCENE.jobs, "the check has something to find"


@pytest.mark.parametrize(("was", "other"), [(SPARSE, DENSE), (DENSE, SPARSE)])
def test_another_polling_gives_what_a_run_under_it_gives(was: PollPolicy, other: PollPolicy) -> None:
    found = compare(read(run(was, MANY)), Policy(polling=polling(other)))
    assert_near(found.likely.figures, recorded_figures(read(run(other, MANY))))
    assert abs(found.likely.figures.polls - found.recorded.polls) > 0.2 * found.recorded.polls


def test_fewer_retries_give_what_a_run_with_fewer_gives_and_nothing_is_assumed() -> None:
    found = compare(read(run(SPARSE, MANY)), Policy(retry=RetryBudgets(unpaid_ends_max=NONE)))
    assert_near(found.likely.figures, recorded_figures(read(run(SPARSE, NONE))))
    assert found.exact
    assert found.likely.figures.outcomes["failed"] > 0


def test_more_retries_make_responses_that_never_were_and_are_told_as_a_range_that_holds_the_truth() -> None:
    found = compare(read(run(SPARSE, NONE)), Policy(retry=RetryBudgets(unpaid_ends_max=MANY)))
    truth = recorded_figures(read(run(SPARSE, MANY)))
    assert found.likely.never_created == found.likely.figures.creates - found.recorded.creates > 0
    assert found.worst.figures.in_time < truth.in_time <= found.best.figures.in_time
    assert found.recorded.in_time < found.likely.figures.in_time
    row = next(row for row in found.rows() if row["figure"] == "in_time")
    assert row["least"] <= row["would_be"] <= row["most"]


def test_usage_that_a_stream_showed_is_replayed_though_no_fact_causes_it() -> None:
    records = run(SPARSE, NONE)
    valued = [(each, each.value) for each in records if each.value is not None]
    settled = next(each for each, value in valued if b'"attempt_settled"' in value and b'"failed"' in value)
    fact = decode(JOB_FACT, settled.value)
    assert isinstance(fact, AttemptSettled)
    booked = UsageBooked(
        id=f"{fact.response_id}/usage/seen", at_ms=fact.at_ms + 1_000, job_id=fact.job_id, tenant="default",
        attempt=fact.attempt, response_id=fact.response_id, usage=Usage(output_tokens=7, total_tokens=7),
        estimated=True,
    )  # fmt: skip
    own = [each for each in records if (each.topic, each.partition) == (settled.topic, settled.partition)]
    added = replace(own[-1], offset=own[-1].offset + 1, key=fact.key.encode(), value=encode(booked))
    at = records.index(own[-1]) + 1
    before, found = (
        compare(read(each), Policy(retry=RetryBudgets(retries_max=0)))
        for each in (records, (*records[:at], added, *records[at:]))
    )
    assert found.recorded.tokens().output_tokens == before.recorded.tokens().output_tokens + 7
    assert found.likely.figures.tokens() == found.recorded.tokens()


def test_a_log_that_lacks_a_fact_is_refused() -> None:
    records = run(SPARSE, MANY)
    lost = next(record for record in records if b'"attempt_settled"' in (record.value or b""))
    reading = read(tuple(record for record in records if record is not lost))
    with pytest.raises(ReplayRangeError, match="does not give what the log holds"):
        compare(reading, Policy(retry=RetryBudgets(retries_max=0)))


def test_the_command_tells_it_from_a_bundle_and_writes_nothing(tmp_path: Path) -> None:
    async def batches() -> AsyncIterator[list[Record]]:
        for _, batch in groupby(run(SPARSE, NONE), key=lambda record: (record.topic, record.partition)):
            yield list(batch)

    bundle, policy = tmp_path / "a.bundle", tmp_path / "policy.toml"
    asyncio.run(write_bundle(bundle, batches(), scope="all", made_at_ms=1))
    policy.write_text("[retry]\nunpaid_ends_max = 3\n")
    asked = ["replay", "--policy", str(policy), "--since", "1", "--bundle", str(bundle)]
    found = CliRunner().invoke(app, [*asked, "-o", "json"])
    assert found.exit_code == 0, found.output
    told = orjson.loads(found.stdout)
    figures = {row["figure"]: row for row in told["figures"]}
    assert figures["jobs"]["was"] == SCENE.jobs
    assert figures["creates"]["change"] == told["estimated"]["responses_never_created"] > 0
    assert "were never created" in CliRunner().invoke(app, asked).stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bundle", "policy.toml"]


@pytest.mark.parametrize("seed", [1, 6])
def test_a_log_of_crashes_repeats_and_gaps_is_replayed_to_its_own_counts(seed: int) -> None:
    found: list[Record] = []
    simulate(seed, jobs=10, aimed={"hedge": 0.0}, poll_at=lambda system: found.extend(records_of(system)))
    recorded = read(tuple(found))
    assert Replay(recorded).run().figures.counts() == recorded_figures(recorded).counts()
