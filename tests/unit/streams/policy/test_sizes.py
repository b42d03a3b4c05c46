"""What is known of a job before it runs, kept once for all jobs of a kind."""

from hypothesis import given
from hypothesis import strategies as st

from streams.policy.sizes import Asked, asked_for


@given(st.integers(0, 1 << 40))
def test_a_size_is_rounded_by_a_64th_at_most_and_small_ones_are_exact(size_bytes: int) -> None:
    known = asked_for("t", "m", size_bytes, 5)
    assert abs(known.request_bytes - size_bytes) <= (size_bytes / 64 if size_bytes >= 1_024 else 0)
    assert known == Asked("t", "m", known.request_bytes, 5)


def test_jobs_of_one_kind_share_what_is_known_of_them() -> None:
    assert asked_for("t", "m", 100_000, None) is asked_for("t", "m", 100_050, None)
    assert asked_for("t", "m", 100_000, None) != asked_for("u", "m", 100_000, None)
