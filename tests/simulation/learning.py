"""The learned schedule of polls, as `streams.app` makes it."""

from streams.policy.latency import Latencies
from streams.policy.learned_polls import LearnedPolls, PollPrice
from streams.policy.polls import PollPolicy, Webhooks
from streams.workers.metrics import WorkerMetrics
from streams.workers.poll_learning import PollLearning
from streams.workers.rate import PollRate
from tests.simulation.chaos import Life


def schedule_of_polls(
    polls: PollPolicy, rate: PollRate, life: Life, metrics: WorkerMetrics, *, learned: bool
) -> tuple[Webhooks, PollLearning | None]:
    """It decides from the first end on, as a worker of the simulation lives for few ends."""
    if not learned:
        return Webhooks(polls), None
    price = PollPrice(spacing_max_ms=polls.spacing_max_ms, ends_min=1)
    found = LearnedPolls(price, Latencies(5_000))
    return Webhooks(polls, learned=found), PollLearning(found, rate, life.now_ms, metrics)
