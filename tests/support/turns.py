"""The order in which the files of a session begin, so that no core and no process is idle."""

from collections import deque
from collections.abc import Iterable

WAITING = ("kafka/", "browser/")
"""Folders of tests that wait for processes for much of their time."""

LONG_S = {
    "kafka/test_two_workers.py": 190, "browser/test_page.py": 150, "kafka/test_dev.py": 140,
    "kafka/test_torture_short.py": 120, "kafka/test_projection.py": 95, "kafka/test_workers.py": 90,
    "browser/test_live.py": 85, "kafka/test_outgoing.py": 80, "kafka/test_hostile_records.py": 80,
    "kafka/test_responses_api.py": 80, "kafka/test_broker.py": 70, "kafka/test_streams.py": 70,
    "kafka/test_operator_actions.py": 70, "kafka/test_strange_provider.py": 65, "kafka/test_receiver.py": 55,
    "kafka/test_costs.py": 55, "kafka/test_openapi_fuzz.py": 55, "kafka/test_prometheus.py": 50,
    "kafka/faust/test_zombie_rows.py": 45, "kafka/test_secured_broker.py": 45, "kafka/faust/test_commits.py": 45,
    "kafka/test_audit.py": 45, "kafka/test_hedges.py": 40, "kafka/test_nothing_left_running.py": 40,
    "kafka/faust/test_nothing_is_lost.py": 30, "kafka/test_erasing.py": 30, "kafka/faust/test_watchdog.py": 25,
    "simulation/test_aimed.py": 95, "simulation/test_storms.py": 85, "simulation/test_planted.py": 80,
    "simulation/test_simulation.py": 75, "simulation/test_outages.py": 65, "properties/test_folds.py": 55,
    "simulation/test_limits.py": 45, "unit/backstop/cli/test_own_modules.py": 40, "unit/test_planted.py": 35,
    "hostile/test_large_answers.py": 35, "unit/receiver/test_sdk_waiting.py": 30, "hostile/test_floods.py": 30,
    "simulation/test_whatif_hedges.py": 30, "unit/streams/policy/test_hedging_goals.py": 25,
}  # fmt: skip
"""Seconds of the files that take longest, in a whole session. One process runs a whole file, so these begin first."""


def turns(files: Iterable[str]) -> list[str]:
    """Files in the order in which they begin: two thirds of the time for those that wait, as long as there are any, so
    that another process has work for the core that they leave idle. What is left at the end is short.

    :param files: paths below `tests`.
    """

    def longest_first(waiting: bool) -> deque[str]:
        chosen = [file for file in files if file.startswith(WAITING) is waiting]
        return deque(sorted(chosen, key=lambda file: -_about_s(file)))

    files = list(files)
    waiting, busy = longest_first(True), longest_first(False)
    order: list[str] = []
    owed_s = 0.0
    while waiting or busy:
        wait = bool(waiting) and (owed_s >= 0 or not busy)
        order.append((waiting if wait else busy).popleft())
        owed_s += -_about_s(order[-1]) if wait else 2 * _about_s(order[-1])
    return order


def _about_s(file: str) -> float:
    return LONG_S.get(file) or {"kafka": 15, "browser": 15, "hostile": 8}.get(file.partition("/")[0], 2)
