"""Both folds while operators change priorities and deadlines: the same invariants hold after each fact."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from schemas.base import Priority
from tests.properties.coverage import Coverage
from tests.properties.machine import JOBS, Machine, run
from tests.properties.model import ADOPTING, TENANTS, TIMEOUT_MS
from tests.support import builders as build

FEW, EXAMPLES = 25, 60
PRIORITIES: list[Priority | None] = [None, "interactive", "normal", "bulk"]


class Changing(Machine):
    """A machine with operators."""

    @rule(
        job_id=st.one_of(JOBS, st.just(ADOPTING)), mine=st.sampled_from([True, True, True, False]),
        priority=st.sampled_from(PRIORITIES),
        from_now_ms=st.sampled_from([None, -1, 0, 1, 5_000, 200_000, TIMEOUT_MS]),
    )  # fmt: skip
    def change(self, job_id: str, mine: bool, priority: Priority | None, from_now_ms: int | None) -> None:
        world = self.world
        deadline_ms = None if from_now_ms is None else world.now_ms + from_now_ms
        tenant = TENANTS[job_id] if mine else "crow"
        world.send(
            build.job_changed(
                world.now_ms, job_id=job_id, tenant=tenant, priority=priority, deadline_at_ms=deadline_ms,
                id=world.next_id("changed"),
            )
        )  # fmt: skip


MUST_MEET = (
    "jobs: waiting", "jobs: active", "jobs: backing_off", "jobs: finished", "responses: running", "responses: ended",
)  # fmt: skip


@pytest.mark.parametrize("examples", [FEW, pytest.param(EXAMPLES, marks=pytest.mark.long)], ids=["few", "many"])
@pytest.mark.timeout(300)
def test_the_invariants_hold_whatever_operators_change_and_when(examples: int) -> None:
    coverage = Coverage()
    run(coverage, examples=examples, machine=Changing)
    met = coverage.met()
    assert set(MUST_MEET) <= set(met)
    assert any("ResponseDeadlineMoved" in line for line in met), sorted(met)[:200]
