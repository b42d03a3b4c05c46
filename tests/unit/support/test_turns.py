"""The order of a session's files."""

from pathlib import Path

from tests.support.turns import LONG_S, WAITING, turns

TESTS = Path(__file__).parents[2]
FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py"))


def test_each_file_has_one_turn() -> None:
    assert sorted(turns(FILES)) == FILES


def test_what_takes_long_begins_first_of_its_kind() -> None:
    for waiting in (True, False):
        took_s = [LONG_S.get(file, 0) for file in turns(FILES) if file.startswith(WAITING) is waiting]
        longest = [each for each in took_s if each]
        assert took_s[: len(longest)] == sorted(longest, reverse=True)


def test_a_file_that_waits_has_others_beside_it() -> None:
    order = turns(FILES)
    last = max(place for place, file in enumerate(order) if file.startswith(WAITING))
    assert last < len(order) * 0.9
    for file in order[-30:]:
        assert file not in LONG_S
    first = [file.startswith(WAITING) for file in order[:12]]
    assert 6 <= sum(first) <= 9


def test_a_selection_of_one_kind_has_an_order() -> None:
    assert turns(["unit/test_a.py", "unit/test_b.py"]) == ["unit/test_a.py", "unit/test_b.py"]
    assert turns(["kafka/test_workers.py", "kafka/test_two_workers.py"])[0] == "kafka/test_two_workers.py"
    assert turns([]) == []


def test_every_file_that_is_said_to_take_long_exists() -> None:
    assert set(LONG_S) <= set(FILES)
