"""One kind of fault at a time, at the rate that the system must survive, and the cost that it may have.

`CREATES` are the replies that a client gets. `HEARD_AS` maps each fault on the wire to its reply;
`unit/streams/workers/test_heard.py` shows that the real client gets the same replies from the real simulator.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from schemas.codec import decode
from schemas.results import RESULT
from streams.policy.polls import JITTER_HIGH, JITTER_LOW, PollPolicy, without_webhooks
from tests.simulation.chaos import EPOCH_MS
from tests.simulation.provider import POLL_FAULTS
from tests.simulation.run import simulate
from tests.simulation.system import System
from tests.simulation.worker import POLLS

HEARD_AS = {
    "close": "lost", "reset": "lost", "cut": "lost", "not_http": "unexpected", "stall": "timeout", "drip": "timeout",
    "html_200": "html", "broken_json": "html", "empty_object": "empty", "null": "null", "list": "list",
    "no_content": "no_content", "408": "408", "409": "409", "500": "500", "502": "502", "503": "503", "504": "504",
}  # fmt: skip
READ_ALIKE = {"null", "list", "no_content", "502", "504"}
"""Read as `html` and `500` are: the outcome is unknown (`unit/streams/openai/test_answers.py`)."""
CREATES = (
    *(f"{side}{heard}" for heard in sorted({*HEARD_AS.values()} - READ_ALIKE) for side in ("", "accepted_")),
    *("accepted_slow", "never_sent"),
)
OF_EACH_KIND = {"lost", "accepted_lost", "timeout", "accepted_timeout", "accepted_html", "409", "500", "accepted_500",
                "503", "accepted_slow", "never_sent"}  # fmt: skip
"""No answer, one that is no JSON, one that proves a refusal or does not, late ones, and none sent. The long form has
every one."""
RESULTS: Mapping[str, set[str]] = {
    "failed": {"failed"}, "failed_never": {"failed"}, "failed_reset": {"failed"}, "failed_no_code": {"failed"},
    "incomplete": {"incomplete"}, "cancelled": {"cancelled"}, "empty": {"completed"}, "stuck": {"expired"},
    "expires": {"completed", "failed"},
}  # fmt: skip
"""End of all attempts of a job → the job's possible outcomes.

A response that `expires` is gone at once or after 5 s: the poller fetches it in time, or the job is retried.
"""
RATES = ((1.0, 12, 0),)
"""(rate of the fault, number of jobs, seed)."""
MORE = ((1.0, 12, 1), (0.1, 20, 0), (0.01, 30, 0))
"""At the lowest rate a fault strikes one run in three."""
FAULTS_S = 60.0

CALM: Mapping[str, Any] = dict.fromkeys(
    ("crash", "pause", "rebalance", "refuse", "lost_ack", "late", "slow", "store_lost", "gap", "create_fault",
     "poll_fault", "cancel_fault", "webhook_lost", "webhook_odd", "run_odd"), 0.0
) | {"outages": 0, "skew_ms": 0, "adopted_per": 0, "hedge": 0.0}  # fmt: skip


@pytest.mark.parametrize(
    "fault", [each if each in OF_EACH_KIND else pytest.param(each, marks=pytest.mark.long) for each in CREATES]
)
@pytest.mark.parametrize("rates", [RATES, pytest.param(MORE, marks=pytest.mark.long)], ids=["", "more"])
def test_a_fault_of_creates_may_be_rare_frequent_or_all_there_is_for_a_minute(
    fault: str, rates: Sequence[tuple[float, int, int]]
) -> None:
    broken: dict[str, tuple[str, ...]] = {}
    for rate, jobs, seed in rates:
        aimed = {"create_only": fault, "create_fault": rate, "faults_end_s": FAULTS_S, "arrival_s": FAULTS_S}
        outcome = simulate(seed, jobs, aimed=aimed)
        if outcome.violations:
            broken[f"{rate:.0%} of creates, seed {seed}, {jobs} jobs"] = outcome.violations
        if rate == 1.0:
            assert outcome.met[f"create {fault}"] >= jobs / 2, "it did not strike"
    assert not broken


@pytest.mark.parametrize("fault", POLL_FAULTS)
@pytest.mark.parametrize("rate", [1.0, pytest.param(0.1, marks=pytest.mark.long)])
def test_a_fault_of_polls_may_be_frequent_or_all_there_is_for_a_minute(rate: float, fault: str) -> None:
    """No webhook reports an end: only polls do."""
    aimed = {
        "poll_only": fault,
        "poll_fault": rate,
        "webhook_lost": 1.0,
        "faults_end_s": FAULTS_S,
        "arrival_s": 30.0,
    }
    outcome = simulate(0, 20, aimed=aimed)
    assert not outcome.violations
    assert outcome.met[f"poll {fault}"] > 0


@pytest.mark.parametrize("end", RESULTS)
def test_each_end_of_a_run_gives_a_result_of_its_class(end: str) -> None:
    found: Counter[str] = Counter()

    def count(system: System) -> None:
        for log in system.broker.results:
            found.update(decode(RESULT, value).outcome for _, _, value in log.records)

    outcome = simulate(0, 30, aimed={**CALM, "run_only": end, "run_odd": 1.0, "faults_end_s": 120.0}, poll_at=count)
    assert not outcome.violations
    assert outcome.met[f"run {end}"] >= 30
    # Some expire first, as their time is short, and some are cancelled by their senders.
    assert found.keys() <= RESULTS[end] | {"expired", "cancelled", "rejected"}
    assert sum(found[outcome] for outcome in RESULTS[end]) >= 15


def test_jobs_whose_webhooks_are_lost_and_whose_responses_expire_end() -> None:
    aimed = {**CALM, "run_only": "expires", "run_odd": 1.0, "webhook_lost": 1.0, "faults_end_s": 120.0}
    outcome = simulate(0, 30, aimed=aimed)
    assert not outcome.violations
    assert outcome.met["poll found nothing"] >= 15


@pytest.mark.parametrize("seed", range(2))
def test_a_cancelled_job_that_completes_after_all_has_one_result(seed: int) -> None:
    aimed = {**CALM, "cancel_fault": 1.0, "run_only": "stuck", "run_odd": 1.0, "faults_end_s": 120.0}
    outcome = simulate(seed, 30, aimed=aimed)
    assert not outcome.violations
    assert outcome.met["cancelled then completed"] > 0


@pytest.mark.parametrize("seed", [0, *(pytest.param(each, marks=pytest.mark.long) for each in (1, 2, 3))])
def test_the_broker_may_take_nothing_for_two_minutes(seed: int) -> None:
    """An outage longer than any timeout and most deadlines, besides the faults of the seed."""
    outcome = simulate(seed, 20, aimed={"away_s": 120.0, "faults_end_s": 150.0, "arrival_s": 60.0})
    assert not outcome.violations
    assert outcome.met["broker away"] > 100


# -- webhooks, clocks: how late an end is found, and by how many polls

WEBHOOKS: Mapping[str, Mapping[str, Any]] = {
    "none lost": {},
    "1 % lost": {"webhook_lost": 0.01},
    "5 % lost": {"webhook_lost": 0.05},
    "all lost": {"webhook_lost": 1.0},
    "all a minute late": {"webhook_late_s": 60.0},
    "all an hour late": {"webhook_late_s": 3_600.0},
    "all 72 hours late": {"webhook_late_s": 72 * 3_600.0},
    # 2 s where polls are 5 s apart at least, here on the scale of `POLLS`: what answers of the broker that took 2 s
    # leave open.
    "our own clocks apart": {"webhook_lost": 1.0, "skew_ms": 300},
    # A signature that is an hour off is refused (`unit/receiver/test_signature.py`), so all its webhooks count as lost.
    "the provider's clock an hour ahead": {"webhook_lost": 1.0, "clock_s": 3_600.0},
    "the provider's clock an hour behind": {"webhook_lost": 1.0, "clock_s": -3_600.0},
}
WEBHOOKS_SHORT = {"none lost", "5 % lost", "all lost", "all an hour late", "our own clocks apart",
                  "the provider's clock an hour ahead"}  # fmt: skip
SEED = 4
"""One worker: three days of waiting cost least with one."""
JOBS = 40
WEBHOOK_POLLS_MAX = 2
"""Extra polls for its webhook: one, and another where it comes after the response is forgotten."""
CALL_S = 1.0
"""From a poll's due time to its report in the log, without faults."""
TAKEOVER_S = 15.0
"""The same while workers join, or are stopped and started again, as they are here all the time."""


def schedule_ms(until_ms: float, jitter: float, polls: PollPolicy = POLLS) -> list[int]:
    """The ages at which a response is polled, up to the first that is not before `until_ms`."""
    ages = [int(polls.first_poll_ms * jitter)]
    while ages[-1] < until_ms:
        wait_ms = min(max(int(polls.spacing_factor * ages[-1]), polls.spacing_min_ms), polls.spacing_max_ms)
        ages.append(ages[-1] + int(wait_ms * jitter))
    return ages


class Costs:
    """Of a run: how long after the scheduled poll each end was seen, and which responses were polled too often."""

    def __init__(self, polls: PollPolicy) -> None:
        self._polls = polls
        self.late_s: list[float] = []
        self.dear: list[str] = []

    def count(self, system: System) -> None:
        ran_ms = {
            response.job_id: (response.ends_s - response.created_s) * 1000
            for response in system.provider.responses.values()
        }
        ended_s = {response.job_id: response.ends_s for response in system.provider.responses.values()}
        for response in system.provider.responses.values():
            polls, allowed = (
                system.provider.polls[response.id],
                len(schedule_ms(ran_ms[response.job_id], JITTER_LOW, self._polls)),
            )
            if polls > allowed + WEBHOOK_POLLS_MAX:
                self.dear.append(f"{response.id}: {polls} polls, {allowed} in the schedule")
        for log in system.broker.results:
            for _, job_id, value in log.records:
                result = decode(RESULT, value)
                if result.outcome == "completed":
                    spacing_ms = POLLS.spacing_factor * ran_ms[job_id]
                    wait_ms = JITTER_HIGH * min(max(POLLS.first_poll_ms, spacing_ms), POLLS.spacing_max_ms)
                    seen_s = (result.at_ms - EPOCH_MS) / 1000
                    self.late_s.append(seen_s - ended_s[job_id] - wait_ms / 1000)


@pytest.mark.parametrize(
    "webhooks",
    [pytest.param(chaos, id=name, marks=[pytest.mark.long] * (name not in WEBHOOKS_SHORT))
     for name, chaos in WEBHOOKS.items()],
)  # fmt: skip
def test_ends_are_seen_in_time_and_at_the_price_of_the_schedule(webhooks: Mapping[str, Any]) -> None:
    """Ends are seen at the next scheduled poll, or by a webhook; no polls beyond the schedule's and the webhooks'."""
    none_comes = webhooks.get("webhook_lost") == 1.0 or "webhook_late_s" in webhooks
    costs = Costs(without_webhooks(POLLS) if none_comes else POLLS)
    outcome = simulate(SEED, JOBS, aimed={**CALM, "faults_end_s": 120.0, **webhooks}, poll_at=costs.count)
    assert not outcome.violations
    assert costs.dear == []
    assert len(costs.late_s) > JOBS / 2
    assert sum(late_s > CALL_S for late_s in costs.late_s) <= len(costs.late_s) / 3
    assert max(costs.late_s) < TAKEOVER_S
    if webhooks.get("webhook_late_s", 0) > 1_800:
        assert outcome.met["responses: absent -> unclaimed by webhook_received"] >= JOBS / 2, "no webhook came so late"
