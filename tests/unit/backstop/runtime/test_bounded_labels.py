"""Values from outside as labels: the first ones as they are, the rest as `other`."""

from backstop.runtime.process.bounded_labels import CHARS_MAX, OTHER, BoundedLabel


def test_the_first_values_are_kept_and_the_rest_is_other() -> None:
    label = BoundedLabel(2)
    assert [label.of(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]


def test_a_long_value_is_cut() -> None:
    assert BoundedLabel(1).of("x" * 500) == "x" * CHARS_MAX
