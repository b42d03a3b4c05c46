import pytest

from backstop.cli.times import point_in_time, time_ahead
from backstop.runtime.errors import ConfigurationError

NOW_MS = 1_767_225_600_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", NOW_MS - 90_000),
        ("5m", NOW_MS - 300_000),
        ("1.5h", NOW_MS - 5_400_000),
        ("2d", NOW_MS - 172_800_000),
        ("1767225600000", NOW_MS),
        ("2026-01-01T00:00:00Z", NOW_MS),
        ("2026-01-01T01:00:00+01:00", NOW_MS),
        (" 2026-01-01 ", NOW_MS),
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, ms: int) -> None:
    assert point_in_time(text, NOW_MS) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "5 minutes", "-5m", "2026-13-01"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigurationError, match="90s"):
        point_in_time(text, NOW_MS)


def test_a_deadline_is_read_from_now_on() -> None:
    assert time_ahead("2h", NOW_MS) == NOW_MS + 7_200_000
    assert time_ahead("2026-01-01T00:00:00Z", NOW_MS) == NOW_MS
    with pytest.raises(ConfigurationError, match="90s"):
        time_ahead("soon", NOW_MS)
