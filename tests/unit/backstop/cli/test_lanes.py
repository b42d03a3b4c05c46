"""`backstop lanes` refuses what names no creates, or two things, before it asks the API."""

import pytest
from typer.testing import CliRunner

from backstop.cli.main import app


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("pause", "--why", "w"), "give --model, --tenant, --tag or --account, or --all"),
        (("pause", "--model", "m"), "--why"),
        (("resume", "--why", "w"), "give the id of a pause, or the options"),
        (("resume", "pause_1", "--model", "m", "--why", "w"), "give the id of a pause, or the options"),
        (("resume", "--model", "m"), "--why"),
    ],
)
def test_what_names_nothing_is_refused(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(app, ["lanes", *arguments, "--url", "http://127.0.0.1:1"])
    assert done.exit_code == 2
    assert told in done.output
