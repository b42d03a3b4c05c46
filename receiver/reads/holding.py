"""What holds an open job up before anything else can: a partition without a worker, an operator's pause, a budget."""

from backstop.readmodel.rows import JobRow, Wait
from backstop.readmodel.waits import Sight, cut
from receiver.lane_watch import LaneWatch
from receiver.reads.shown import HeldOf
from receiver.reads.status import SystemWatch
from schemas.pauses import BUDGET_CODE, PAUSED_CODE

PAUSABLE = frozenset({"turn", "retry", "lane", "operator"})
"""Waits that end with a create, which a pause holds back."""


def holding(system: SystemWatch, lanes: LaneWatch) -> HeldOf:
    """The question, answered by what the brokers and the topic `pauses` tell."""

    def held(row: JobRow, sight: Sight) -> Wait | None:
        idle = system.idle(row, sight)
        if idle is not None or row.wait is None or row.wait.waits_for not in PAUSABLE:
            return idle
        pauses = tuple(lanes.book.holding(model=row.model or "", tenant=row.tenant, tags=row.tags))
        if not pauses:
            return None
        first = min(pauses, key=lambda pause: pause.at_ms)
        said, code = f"creates are {first.words}", PAUSED_CODE if first.scope.budget is None else BUDGET_CODE
        return Wait("resume", max(first.at_ms, row.wait.since_ms), row.deadline_at_ms, code, cut(said))

    return held
