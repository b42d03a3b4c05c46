import pwd
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backstop.cli.keys import app
from backstop.cli.person import person
from backstop.runtime.http.keys import load_keys

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER")


@pytest.fixture(autouse=True)
def _unnamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BACKSTOP_KEYS_FILE", str(tmp_path / "keys.json"))


def without_an_entry(uid: int) -> pwd.struct_passwd:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LOGNAME": "ann"}, "ann"),
        ({"LOGNAME": "backstop", "SUDO_USER": "ann"}, "ann"),
        ({"LOGNAME": "an\x1b[2Jn\n"}, "an[2Jn"),
        ({"LOGNAME": "x" * 500}, "x" * 100),
    ],
)
def test_a_person_has_the_name_of_its_user(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert person() == expected


def test_a_user_without_a_name_makes_keys_and_rotates_and_revokes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a number of the platform's choice."""
    monkeypatch.setattr(pwd, "getpwuid", without_an_entry)
    runner, path = CliRunner(), tmp_path / "keys.json"
    assert runner.invoke(app, ["create", "--tenant", "acme"]).exit_code == 0
    (key,) = load_keys(path).keys
    assert (key.created_by or "").startswith("uid ")
    assert runner.invoke(app, ["rotate", key.id]).exit_code == 0
    assert runner.invoke(app, ["revoke", key.id]).exit_code == 0


def test_a_long_name_leaves_a_keys_file_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "x" * 500)
    runner, path = CliRunner(), tmp_path / "keys.json"
    assert runner.invoke(app, ["create", "--tenant", "acme"]).exit_code == 0
    assert runner.invoke(app, ["rotate", load_keys(path).keys[0].id]).exit_code == 0
    assert len(load_keys(path).keys) == 2
