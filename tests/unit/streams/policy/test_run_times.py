"""The latest runs of each model, kept in order as they come and go."""

from hypothesis import given
from hypothesis import strategies as st

from streams.policy.run_times import RUNS_MIN, RUNS_REMEMBERED, RunTimes


@given(st.lists(st.integers(0, 50), min_size=RUNS_MIN, max_size=2 * RUNS_REMEMBERED), st.floats(0, 0.99))
def test_a_quantile_is_that_of_the_latest_runs(runs: list[int], share: float) -> None:
    known = RunTimes()
    for run_ms in runs:
        known.learn("m", run_ms)
    latest = sorted(runs[-RUNS_REMEMBERED:])
    assert known.quantile_ms("m", share) == latest[int(share * len(latest))]
    assert (known.least_ms("m"), known.median_ms("m")) == (latest[len(latest) // 10], latest[len(latest) // 2])


def test_too_few_runs_tell_nothing_and_no_run_takes_less_than_no_time() -> None:
    known = RunTimes()
    for _ in range(RUNS_MIN - 1):
        known.learn("m", -5)
    assert (known.quantile_ms("m", 0.5), known.least_ms("m"), known.median_ms("m")) == (None, 0, 0)
    known.learn("m", -5)
    assert known.quantile_ms("m", 0.5) == 0


def test_the_model_that_ended_longest_ago_is_forgotten() -> None:
    known = RunTimes(models_max=2)
    for model in ("a", "b", "a", "c"):
        for _ in range(RUNS_MIN):
            known.learn(model, 7)
    assert [known.quantile_ms(model, 0.5) for model in "abc"] == [7, None, 7]
