"""A what-if of hedges against the truth: runs of the real parts with and without hedges, and replays of each as the
other. The worker begins without knowledge, as a replay does. Run times of the attempts of a job are independent.
"""

from functools import cache

import pytest

from backstop.audit.whatif.compare import Comparison, compare
from backstop.audit.whatif.figures import Figures, recorded_figures
from backstop.audit.whatif.policy import Hedging, Policy
from backstop.audit.whatif.recorded import Recorded
from backstop.audit.whatif.replay import Replay
from schemas.hedges import HedgeMode
from tests.simulation.calm import Scene, calm_run, records_of
from tests.simulation.run import simulate
from tests.simulation.test_whatif import DENSE, SPARSE, mean_ms, polling, read

JOBS, JOBS_LONG = 200, 800
SHARE, OTHER_SHARE = 0.2, 0.05
BOUNDS = ("likely", "worst", "best")


@cache
def log(share: float | None, jobs: int = JOBS) -> Recorded:
    """:param share: None: no job may be hedged."""
    scene = Scene(jobs=jobs, hedged=share is not None, hedge_share=share or SHARE, arrival_s=jobs)
    return read(tuple(calm_run(scene, SPARSE)))


def replayed(of: Recorded, mode: HedgeMode, share: float = SHARE) -> Comparison:
    """With the polling of the log: polls of responses that never were are told too."""
    return compare(of, Policy(polling=polling(SPARSE), hedging=Hedging(mode=mode, share=share)))


def assert_near(found: Figures, truth: Figures, hedges_share: float) -> None:
    assert found.in_time == truth.in_time
    assert found.creates - found.hedges == truth.creates - truth.hedges
    assert abs(found.hedges - truth.hedges) <= hedges_share * truth.hedges
    assert abs(found.polls - truth.polls) <= 0.03 * truth.polls
    assert abs(mean_ms(found.total_ms) - mean_ms(truth.total_ms)) <= 0.03 * mean_ms(truth.total_ms)


@pytest.mark.long
def test_the_same_hedging_gives_the_counts_of_the_log() -> None:
    found = replayed(log(SHARE), "asked")
    assert found.likely.figures.counts() == recorded_figures(log(SHARE)).counts()
    assert found.exact
    assert found.recorded.hedges >= 10
    assert found.recorded.hedges_won > 0


@pytest.mark.long
def test_hedging_turned_on_gives_what_a_run_with_it_gives() -> None:
    found, truth = replayed(log(None), "all"), recorded_figures(log(SHARE))
    assert_near(found.likely.figures, truth, 0.2)
    assert found.recorded.hedges == 0
    assert found.likely.never_created == found.likely.figures.hedges
    assert found.worst.figures.hedges_won == 0 < found.best.figures.hedges_won
    means = [mean_ms(getattr(found, way).figures.total_ms) for way in ("best", "worst")]
    assert means[0] < mean_ms(truth.total_ms) < means[1]


@pytest.mark.long
def test_hedging_turned_off_gives_what_a_run_without_it_gives() -> None:
    found, truth = replayed(log(SHARE), "never"), recorded_figures(log(None))
    assert_near(found.likely.figures, truth, 0.0)
    for way in BOUNDS:
        played = getattr(found, way).figures
        assert (played.hedges, played.creates) == (0, truth.creates)
    assert 0 < found.likely.unknown_ends <= found.recorded.hedges_won, "what the beaten attempts would have done"
    assert found.worst.figures.in_time <= truth.in_time <= found.best.figures.in_time


def test_another_polling_keeps_the_hedges_of_the_log() -> None:
    found = compare(log(SHARE), Policy(polling=polling(DENSE)))
    assert found.likely.figures.polls > 1.2 * found.recorded.polls
    assert found.likely.figures.hedges == found.recorded.hedges
    assert found.likely.figures.creates == found.recorded.creates


@pytest.mark.long
@pytest.mark.parametrize(("was", "other"), [(SHARE, OTHER_SHARE), (OTHER_SHARE, SHARE)])
def test_another_share_gives_what_a_run_with_it_gives(was: float, other: float) -> None:
    found, truth = replayed(log(was, JOBS_LONG), "asked", other), recorded_figures(log(other, JOBS_LONG))
    assert_near(found.likely.figures, truth, 0.2)
    assert abs(truth.hedges - found.recorded.hedges) > 0.5 * found.recorded.hedges * min(1, other / was)


@pytest.mark.parametrize(
    "seed", [1, 6, pytest.param(11, marks=pytest.mark.long), pytest.param(14, marks=pytest.mark.long)]
)
def test_a_log_of_crashes_with_hedges_is_replayed_to_its_own_counts(seed: int) -> None:
    found: list[Recorded] = []
    simulate(seed, jobs=10, poll_at=lambda system: found.append(read(tuple(records_of(system)))))
    assert Replay(found[-1]).run().figures.counts() == recorded_figures(found[-1]).counts()
