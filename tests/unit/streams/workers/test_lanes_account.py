"""The lane of the account: models take turns at its probes, and no model has its name."""

import asyncio
from collections.abc import Mapping

import pytest

from schemas.lanes import ALL_MODELS, lane_name
from streams.policy.lanes import FAILURES_MAX, Go
from streams.workers.lanes import Lanes

T0 = 1_795_341_600_000
MINUTE_MS = 60_000


class Account:
    """Workers whose models all have a backlog, asked in one order. The key is wrong until it is mended."""

    def __init__(self, workers: int) -> None:
        self.now_ms = T0
        self.lanes = [Lanes(lambda: self.now_ms) for _ in range(workers)]
        for each in self.lanes:
            each.join(self._written)

    def _written(self, fact: object) -> None:
        for each in self.lanes:
            each.read(fact, self.now_ms)  # type: ignore[arg-type]

    async def run(self, models: Mapping[str, str | None], span_ms: int, *, key: bool) -> list[str]:
        """The models of the creates that were sent, in order. `models`: how creates of each fail; None: they don't."""
        sent: list[str] = []
        until_ms = self.now_ms + span_ms
        while self.now_ms < until_ms:
            self.now_ms += 500
            for lanes in self.lanes:
                for model, fails in models.items():
                    command_id = f"{model}/{self.now_ms}/{id(lanes)}"
                    if lanes.release(model) or not isinstance(await lanes.send(model, command_id), Go):
                        continue
                    sent.append(model)
                    if fails is not None:
                        lanes.failed(model, command_id, fails, "x")  # type: ignore[arg-type]
                    elif key:
                        lanes.succeeded(model, command_id)
                    else:
                        lanes.failed(model, command_id, "account", "invalid_api_key", account_wide=True)
        return sent


@pytest.mark.parametrize("fails", ["faulty", "odd"])
@pytest.mark.parametrize("workers", [1, 3])
def test_models_that_fail_for_their_own_reasons_do_not_keep_the_account_closed(fails: str, workers: int) -> None:
    account = Account(workers)
    healthy: dict[str, str | None] = {"y": None}
    others: dict[str, str | None] = {"a": fails, "b": fails}
    asyncio.run(account.run(healthy, 3 * MINUTE_MS, key=False))
    sent = asyncio.run(account.run(others | healthy, 9 * MINUTE_MS, key=True))
    assert "y" in sent[: 2 * workers + 3], "each of the others goes first once at most, as far as a worker knows"


def test_models_that_all_fail_for_their_own_reasons_take_turns() -> None:
    account = Account(1)
    asyncio.run(account.run({"y": None}, 3 * MINUTE_MS, key=False))
    sent = asyncio.run(account.run(dict.fromkeys(("a", "b", "c"), "odd"), 15 * MINUTE_MS, key=True))
    assert sent[:6] == ["a", "b", "c", "a", "b", "c"]
    assert len(sent) >= 13, "a model that is alone, or whose turn it is, waits two seconds longer at most"


def test_a_model_with_the_shown_name_of_the_accounts_lane_is_a_model_like_others() -> None:
    lanes = Lanes(lambda: T0)
    for number in range(FAILURES_MAX):
        lanes.failed(lane_name(ALL_MODELS), f"c{number}", "faulty", "http_500")
    assert lanes.closed(lane_name(ALL_MODELS)) is not None
    assert lanes.closed("y") is None
