"""The small parts of the workers: memory, hints, slots, settings."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from backstop.runtime.errors import ConfigurationError
from streams.settings import StreamSettings
from streams.submission import SubmissionPolicy
from streams.workers.command_memory import SKEW_MS, CommandMemory
from streams.workers.slots import Slots
from streams.workers.webhook_hints import Hints


def test_memory_knows_since_when_it_is_complete() -> None:
    memory = CommandMemory(ids_max=2, complete_since_ms=100_000)
    assert memory.covers(100_000 + SKEW_MS)
    assert not memory.covers(100_000 + SKEW_MS - 1)
    for number in range(3):
        memory.remember(f"c{number}", 200_000 + number)
    assert "c0" not in memory
    assert "c1" in memory
    assert not memory.covers(200_000 + SKEW_MS)
    assert memory.covers(200_001 + SKEW_MS)


def test_older_ids_are_put_before_the_known_ones() -> None:
    memory = CommandMemory(ids_max=3, complete_since_ms=100_000)
    memory.remember("c2", 100_000)
    memory.add_older([("c0", 10_000), ("c1", 20_000), ("c2", 30_000)], 5_000)
    assert all(name in memory for name in ("c0", "c1", "c2"))
    assert memory.covers(5_000 + SKEW_MS)
    memory.remember("c3", 110_000)
    assert "c0" not in memory
    assert not memory.covers(10_000 + SKEW_MS)


def test_more_older_ids_than_fit_leave_the_newest() -> None:
    memory = CommandMemory(ids_max=2, complete_since_ms=100_000)
    memory.add_older([("c0", 10_000), ("c1", 20_000), ("c2", 30_000)], 5_000)
    assert "c0" not in memory
    assert "c1" in memory
    assert not memory.covers(10_000 + SKEW_MS)
    assert memory.covers(10_001 + SKEW_MS)


def test_hints_count_the_polls_in_vain_since_the_last_webhook() -> None:
    hints = Hints(hints_max=2)
    assert hints.in_vain("a", webhook=False) is None
    assert [hints.in_vain("a", webhook=True), hints.in_vain("a", webhook=False)] == [0, 1]
    assert hints.in_vain("a", webhook=True) == 0
    hints.ended("a")
    assert hints.in_vain("a", webhook=False) is None
    for name in ("a", "b", "c"):
        hints.in_vain(name, webhook=True)
    assert hints.in_vain("a", webhook=False) is None
    assert hints.in_vain("c", webhook=False) == 1


def test_slots_are_bounded_and_waited_for() -> None:
    async def scenario() -> None:
        slots = Slots(2)
        slots.take()
        slots.take()
        assert slots.free == 0
        assert not await slots.some_free(10)
        with pytest.raises(AssertionError):
            slots.take()
        asyncio.get_running_loop().call_soon(slots.give_back)
        assert await slots.some_free(5_000)
        asyncio.get_running_loop().call_soon(slots.give_back)
        await slots.all_free()
        assert slots.free == 2

    asyncio.run(scenario())


def test_the_settings_come_from_our_names_or_from_those_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sdk")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://sdk/v1")
    assert StreamSettings().openai_api_key.get_secret_value() == "sk-sdk"
    assert StreamSettings().openai_base_url == "https://sdk/v1"
    monkeypatch.setenv("BACKSTOP_OPENAI_API_KEY", "sk-ours")
    monkeypatch.setenv("BACKSTOP_OPENAI_BASE_URL", "https://ours/v1")
    monkeypatch.setenv("BACKSTOP_POLL_SPACING_MIN_MS", "7000")
    settings = StreamSettings()
    assert settings.openai_api_key.get_secret_value() == "sk-ours"
    assert settings.openai_base_url == "https://ours/v1"
    assert settings.poll_policy().spacing_min_ms == 7_000
    assert "sk-ours" not in repr(settings)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="spacing_min_ms"):
        StreamSettings(poll_spacing_min_ms=2_000, poll_spacing_max_ms=1_000)


def test_a_worker_without_a_key_refuses_to_start_unless_none_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="set OPENAI_API_KEY, or BACKSTOP_OPENAI_KEYLESS=true"):
        StreamSettings(openai_api_key=SecretStr(" ")).refuse_to_start()
    with pytest.raises(ConfigurationError, match="unset one"):
        StreamSettings(openai_api_key=SecretStr("sk-x"), openai_keyless=True).refuse_to_start()
    with pytest.raises(ConfigurationError, match="BACKSTOP_OPENAI_CLIENT_CERTIFICATE"):
        StreamSettings(openai_keyless=True, openai_client_key=Path("key.pem")).refuse_to_start()
    StreamSettings(openai_keyless=True).refuse_to_start()
    StreamSettings(openai_api_key=SecretStr("sk-x")).refuse_to_start()


def test_the_times_of_a_create_that_is_held_until_its_run_is_over_fit_each_other() -> None:
    hour_ms = 3_600_000
    policy = SubmissionPolicy(create_timeout_ms=2 * hour_ms).stamp(None)
    assert policy.create_timeout_ms == 2 * hour_ms
    assert policy.report_timeout_ms > policy.command_valid_ms + 2 * hour_ms
    with pytest.raises(ValueError, match="must not pass while"):
        SubmissionPolicy(create_timeout_ms=2 * hour_ms, timeout_ms=2 * hour_ms)
