"""PURE: what a run of a given length must have met, or it proves less than it says."""

from collections.abc import Collection, Iterable

from backstop.dev.invariants import Breach
from tests.torture.failpoint_deck import FAILPOINTS
from tests.torture.hedges import Races
from tests.torture.plan import Plan

FAILPOINTS_MINUTES = 10.0
"""A run of this length must have met every failpoint."""

FLOWS_MINUTES = 4.0
"""A run of this length has begun most of its jobs, and met each end of a hedge. In a shorter one the machine's speed
decides what comes before it is over.
"""
FLOWS_FAULTS = "demo"
"""The provider's faults under which most creates are taken, whatever is killed. Under torture's own they are not."""

BEGUN_SHARE = 0.5
"""At least: a run whose jobs wait until their deadlines tests little besides deadlines."""

HEDGES_MET = ("permitted", "raced", "won", "lost", "cancelled")
HEDGES_MET_AMONG_KILLS = (*HEDGES_MET, "through_a_kill")


def flows(plan: Plan) -> bool:
    """Whether the jobs of a run must get on."""
    return plan.minutes >= FLOWS_MINUTES and (not plan.breaks or plan.faults == FLOWS_FAULTS)


def hedges_missing(plan: Plan, found: Races) -> list[Breach]:
    """What of hedges did not happen, in a run that must meet it."""
    if not (plan.hedges and flows(plan)):
        return []
    counts = found.as_json()
    wanted = HEDGES_MET_AMONG_KILLS if plan.breaks else HEDGES_MET
    return [Breach("coverage", "kinds of hedges that did not happen", [name for name in wanted if not counts[name]])]


def jobs_held(plan: Plan, acknowledged: Collection[str], begun: Collection[str]) -> list[Breach]:
    """Whether too many jobs were never begun, in a run whose jobs must get on.

    :param begun: jobs of which the provider accepted a create.
    """
    if not flows(plan):
        return []
    number, of = len(set(acknowledged) & set(begun)), len(acknowledged)
    held = [f"{number} of {of} were begun"] if number < BEGUN_SHARE * of else []
    return [Breach("coverage", "runs most of whose jobs were never begun", held)]


def failpoints_missing(plan: Plan, hit: Iterable[str]) -> list[Breach]:
    """The failpoints that killed no process, in a run that must have met all."""
    if plan.minutes < FAILPOINTS_MINUTES or not plan.breaks or plan.failpoints or plan.large:
        return []
    return [Breach("coverage", "failpoints that killed no process", sorted(set(FAILPOINTS) - set(hit)))]
