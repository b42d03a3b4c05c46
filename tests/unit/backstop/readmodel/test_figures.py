"""Figures of ended jobs: quantiles, distributions, periods."""

from hypothesis import given
from hypothesis import strategies as st

from backstop.readmodel.figures import (
    ASKED_WITHIN_MS,
    EDGES_MS,
    MODELS_MAX,
    OTHER,
    PERIODS_MAX,
    EndedJob,
    distribution,
    period_of,
    quantile,
    stats,
    webhook_health,
)


def ended(
    at_ms: int = 1_000, model: str | None = "m", found_by: str | None = "webhook", lag_ms: int | None = 10
) -> EndedJob:
    return EndedJob(model, "completed", found_by, at_ms, 100, 2_000, lag_ms, 30)


def test_the_edges_are_those_of_the_metrics() -> None:
    assert EDGES_MS[:4] == (50, 75, 112, 169)
    assert EDGES_MS[-1] > 7_200_000
    assert list(EDGES_MS) == sorted(set(EDGES_MS))


def test_quantiles_are_values_that_were_seen() -> None:
    ordered = list(range(1, 101))
    assert [quantile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert quantile([7], 0.99) == 7
    assert quantile([], 0.5) is None


@given(st.lists(st.integers(0, 10**9)), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_the_least_that_its_share_does_not_exceed(values: list[int], share: float) -> None:
    found = quantile(sorted(values), share)
    if found is None:
        assert values == []
        return
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_what_lies_on_an_edge_is_below_it_and_what_is_beyond_all_is_counted() -> None:
    found = distribution([0, 50, 51, 75, EDGES_MS[-1] + 1])
    assert (found["counts"][0], found["counts"][1], found["counts"][-1]) == (2, 2, 1)
    assert (found["n"], sum(found["counts"]), found["max_ms"]) == (5, 5, EDGES_MS[-1] + 1)


def test_the_figures_of_nothing() -> None:
    found = stats([], 10, 20, 100)
    assert (found["ended"], found["truncated"], found["models"], found["outcomes"]) == (0, False, [], {})
    assert found["webhooks"]["periods"] == []


def test_a_cut_answer_says_so_and_from_when_on_it_counts() -> None:
    jobs = [ended(at_ms) for at_ms in (900, 800, 700)]
    assert (stats(jobs, 0, 1_000, 3)["truncated"], stats(jobs, 0, 1_000, 3)["since_ms"]) == (True, 700)
    assert (stats(jobs, 0, 1_000, 4)["truncated"], stats(jobs, 0, 1_000, 4)["since_ms"]) == (False, 0)


def test_rare_models_are_counted_together_and_what_has_none_is_not() -> None:
    jobs = [ended(model=f"m{n}") for n in range(MODELS_MAX + 3) for _ in range(20 - n)]
    jobs.append(ended(model=None, found_by=None, lag_ms=None))
    found = stats(jobs, 0, 1_000, 10_000)
    assert [model["model"] for model in found["models"][:2]] == [OTHER, "m0"], "the most first"
    assert len(found["models"]) == MODELS_MAX + 1
    assert sum(model["ended"] for model in found["models"]) == len(jobs) - 1 == found["ended"] - 1


def test_a_missed_webhook_is_one_that_had_not_come_when_a_poll_found_the_end() -> None:
    minute_ms = 60_000
    jobs = [
        ended(minute_ms, found_by="poll", lag_ms=None),
        ended(minute_ms + 1, found_by="poll", lag_ms=5),
        ended(minute_ms - 1),
        ended(
            minute_ms, found_by="create", lag_ms=None
        ),  # the create returned the end: no poll was made, no webhook is missed
        ended(found_by=None, lag_ms=None),  # the job ended without the provider
    ]
    found = webhook_health(jobs, 0, 2 * minute_ms)
    assert (found["webhook"], found["poll"], found["create"], found["missed"]) == (1, 2, 1, 1)
    assert found["period_ms"] == minute_ms
    assert found["periods"] == [
        {"from_ms": 0, "webhook": 1, "poll": 0, "create": 0, "missed": 0},
        {"from_ms": minute_ms, "webhook": 0, "poll": 2, "create": 1, "missed": 1},
    ]


@given(st.integers(0, 600 * 86_400_000))
def test_a_span_has_a_bounded_number_of_periods(span_ms: int) -> None:
    assert span_ms <= PERIODS_MAX * period_of(span_ms) + ASKED_WITHIN_MS


def test_the_last_hour_is_told_by_the_minute_though_the_question_takes_a_moment() -> None:
    assert [period_of(3_600_000 + late_ms) for late_ms in (0, 1_500, 20_000)] == [60_000, 60_000, 300_000]
