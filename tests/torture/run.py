"""One run: start everything, break it while jobs are submitted, heal it, wait until all is quiet, judge."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from backstop.audit.read_rows import ReadModel
from backstop.audit.report import Report
from backstop.audit.verify import verify
from backstop.cli.read_rows import read_model
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import make_clock, monotonic_s
from tests.torture.children import Log
from tests.torture.coverage import failpoints_missing, hedges_missing, jobs_held
from tests.torture.driver import Driver, Submitted
from tests.torture.evidence import Evidence, read_rest, settle
from tests.torture.failpoint_deck import REBUILD, FailpointDeck
from tests.torture.judge import Verdict, judge
from tests.torture.money import Money
from tests.torture.operators import Operators
from tests.torture.plan import Plan
from tests.torture.rebuild import rebuild_says
from tests.torture.rig import Rig, running
from tests.torture.schedule import Done, Schedule, Tell

ROWS_WITHIN_S = 30.0
VERIFY_SETTLE_S = 20.0
SUBMIT_WITHIN_S = 120.0
"""How much longer than twice the plan's minutes the driver may take: what was refused while the broker was away is sent
again.
"""


@dataclass(slots=True)
class Outcome:
    """A run that is over."""

    plan: Plan
    submitted: Submitted
    evidence: Evidence
    audit: Report
    verdict: Verdict
    children: Log
    broken: Done
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Others:
    """What acts beside the upstream services and the faults."""

    operators: Operators
    money: Money


async def run(plan: Plan, tell: Tell, on_kill: Callable[[Callable[[], None]], None]) -> Outcome:
    """To the end. `on_kill` is handed what ends everything at once."""
    began_s = monotonic_s()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is what we did
    children: list[Log] = []
    deck = FailpointDeck(
        plan.seed, lambda: children[0].failpoints() if children else Log().failpoints(),
        share=1.0 if plan.short or plan.failpoints else 0.6, short=plan.short, only=plan.failpoints,
    )  # fmt: skip
    async with running(plan, deck.deal) as rig:
        children.append(rig.log)
        on_kill(rig.kill_all)
        seconds = {"start": monotonic_s() - began_s}
        tell(f"all up after {seconds['start']:.1f} s; {plan.jobs} jobs at {plan.rate_per_s:.1f} a second")
        driver, schedule = Driver(rig, make_clock()), Schedule(rig, tell, deck)
        began_s = monotonic_s()
        await _break_it(plan, driver, schedule, deck, _Others(Operators(rig, make_clock()), Money(rig)))
        seconds["broken"] = monotonic_s() - began_s
        tell(f"healed; {len(driver.seen.acknowledged)} jobs acknowledged, waiting for what is open")
        healed_at_ms = make_clock()()
        await rig.ready()
        outcome = await _poll(rig, driver.seen, schedule.done, healed_at_ms, seconds, tell)
    # Once more from the logs alone, with nothing running: the drains are over by now.
    outcome.verdict = judge(
        outcome.submitted, outcome.evidence, outcome.audit, outcome.children.drains_s, outcome.verdict.rebuild
    )
    acknowledged = [known.job_id for known in outcome.submitted.acknowledged]
    begun = {str(create.job_id) for create in outcome.evidence.creates}
    hit = {*outcome.children.failpoints(), *(REBUILD,) * outcome.broken.rebuild_kills}
    outcome.verdict.take(
        *hedges_missing(plan, outcome.evidence.races), *jobs_held(plan, acknowledged, begun),
        *failpoints_missing(plan, hit),
    )  # fmt: skip
    return outcome


async def _break_it(
    plan: Plan, driver: Driver, schedule: Schedule, deck: FailpointDeck, others: _Others
) -> None:  # fmt: skip
    submitting = asyncio.create_task(driver.run(), name="driver")
    operating = asyncio.create_task(others.operators.run() if plan.operators else asyncio.sleep(0), name="operators")
    spending = asyncio.create_task(others.money.run() if plan.budget else asyncio.sleep(0), name="money")
    try:
        if plan.breaks:
            deck.on = True
            await schedule.run()
            deck.on = False
        await schedule.heal()
        if not plan.breaks:
            await driver.last_may_come()
            await asyncio.wait({submitting}, timeout=plan.minutes * 60)
        operating.cancel()
        spending.cancel()
        await asyncio.gather(operating, spending, return_exceptions=True)
        if plan.budget:
            await others.money.lift()
        await driver.last_may_come()
        schedule.done.faults.update(others.operators.done)
        schedule.done.faults.update(others.money.done)
        try:
            async with asyncio.timeout(SUBMIT_WITHIN_S + plan.minutes * 60):
                await submitting
        except TimeoutError:
            driver.seen.refused.append("not all were acknowledged long after everything was healed")
    finally:
        deck.on = False
        submitting.cancel()
        operating.cancel()
        spending.cancel()
        await asyncio.gather(submitting, operating, spending, return_exceptions=True)


async def _poll(
    rig: Rig, submitted: Submitted, done: Done, healed_at_ms: int, seconds: dict[str, float], tell: Tell
) -> Outcome:
    evidence = Evidence(healed_at_ms=healed_at_ms)
    async with open_reader(rig.runtime) as reader:
        within_s = rig.plan.timeout_ms / 1000 + rig.plan.patience_s
        seconds["until quiet"] = await settle(reader, submitted, evidence, within_s)
        tell(f"quiet after {seconds['until quiet']:.1f} s; judging")
        began_s = monotonic_s()
        model = await _rows(rig, evidence)
        await read_rest(reader, rig.runtime, rig.ledgers, evidence)
    evidence.worker_kills_ms = rig.log.killed_at_ms("worker", make_clock()())
    async with open_reader(rig.runtime) as reader:
        audit = await verify(reader, prefix=rig.runtime.topic_prefix, settle_s=VERIFY_SETTLE_S, read_model=model)
    rebuild = await rebuild_says(rig)
    verdict = judge(submitted, evidence, audit, rig.log.drains_s, rebuild)
    seconds["judging"] = monotonic_s() - began_s
    return Outcome(rig.plan, submitted, evidence, audit, verdict, rig.log, done, seconds)


async def _rows(rig: Rig, evidence: Evidence) -> ReadModel:
    """The read model once it says what the results say; or as it is after `ROWS_WITHIN_S`."""
    deadline_s = monotonic_s() + ROWS_WITHIN_S
    while True:
        model = await read_model(rig.database_url)
        evidence.rows = {job_id: row.status for job_id, row in model.rows.items()}
        behind = any(evidence.rows.get(job_id) != result.outcome for job_id, result in evidence.results.first.items())
        if not behind or monotonic_s() >= deadline_s:
            return model
        await asyncio.sleep(0.5)
