"""The real parts against the pure figures: hedges cost and bring in a run what `bench.hedging` tells, within 10 %.

All but the broker are the product's own: folds, scheduler, submitter and poller, in virtual time.
"""

from random import Random

import pytest

from backstop.audit.whatif.figures import Figures, recorded_figures
from bench.hedging import Course, Scene, hedged
from tests.simulation import calm
from tests.simulation.test_whatif import SPARSE, read

JOBS, SHARE, WITHIN = 1_500, 0.1, 0.1


def pair(chance: Random) -> tuple[float, float]:
    """As `tests.simulation.calm` draws run times."""
    first, second = (min(60.0, chance.lognormvariate(2.0, 0.8)) for _ in range(2))
    return first, second


def quantile_s(figures: Figures, share: float) -> float:
    return figures.total_ms[int(share * len(figures.total_ms))] / 1_000


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_of_the_real_parts_has_the_pure_figures() -> None:
    scene = calm.Scene(jobs=JOBS, webhook_lost=0.0, hedged=True, hedge_share=SHARE, arrival_s=JOBS)
    found = recorded_figures(read(tuple(calm.calm_run(scene, SPARSE))))
    pure: Course = hedged(Scene(pair, SHARE, JOBS))
    assert found.in_time == JOBS
    assert found.creates - JOBS == found.hedges
    assert found.hedges / JOBS == pytest.approx(pure.extra, rel=WITHIN)
    assert found.hedges_won / found.hedges == pytest.approx(pure.wins, abs=WITHIN)
    for share in (0.5, 0.9, 0.95):
        assert quantile_s(found, share) == pytest.approx(pure.quantile_s(share), rel=WITHIN)
