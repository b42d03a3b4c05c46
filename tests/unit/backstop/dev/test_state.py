"""What a running system leaves for other commands counts only while it runs."""

from pathlib import Path

import pytest

from backstop.dev.state import DevState, forget_state, only_one, read_state, write_state
from backstop.runtime.errors import ConfigurationError

STATE = DevState(1, "http://127.0.0.1:1", "127.0.0.1:2", "backstop.", 4, None, "logs", "2026-01-01T00:00:00+00:00")


def test_what_a_running_system_wrote_is_read(tmp_path: Path) -> None:
    with only_one(tmp_path):
        write_state(tmp_path, STATE)
        assert read_state(tmp_path) == STATE
        forget_state(tmp_path)
        assert read_state(tmp_path) is None


def test_what_a_dead_system_wrote_counts_for_nothing(tmp_path: Path) -> None:
    with only_one(tmp_path):
        write_state(tmp_path, STATE)
    assert read_state(tmp_path) is None


def test_the_next_system_does_not_vouch_for_what_a_dead_one_wrote(tmp_path: Path) -> None:
    write_state(tmp_path, STATE)
    with only_one(tmp_path):
        assert read_state(tmp_path) is None


def test_a_second_system_on_the_folder_is_refused(tmp_path: Path) -> None:
    with only_one(tmp_path), pytest.raises(ConfigurationError, match="already runs"), only_one(tmp_path):
        pass


def test_a_folder_or_a_file_that_is_not_there_is_no_system(tmp_path: Path) -> None:
    assert read_state(tmp_path / "nowhere") is None
    (tmp_path / "dev.json").write_text("{half")
    with only_one(tmp_path):
        (tmp_path / "dev.json").write_text("{half")
        assert read_state(tmp_path) is None
