"""What the schedule asks of the simulator is a configuration that the simulator takes."""

from dataclasses import replace

import pytest

from backstop.simulator.profiles import PRESETS
from tests.torture.schedule import wave_over


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_wave_over_any_preset_is_a_profile(preset: str) -> None:
    usual = PRESETS[preset]
    wave = wave_over(usual.rates)
    assert all(rate > 0 for rate in wave.values())
    assert replace(usual, rates={**usual.rates, **wave}).rates["poll_429"] == wave["poll_429"]


@pytest.mark.parametrize("preset", ["rough", "torture"])
def test_a_wave_refuses_most_creates(preset: str) -> None:
    wave = wave_over(PRESETS[preset].rates)
    assert sum(rate for name, rate in wave.items() if name.startswith("create_")) > 0.4
