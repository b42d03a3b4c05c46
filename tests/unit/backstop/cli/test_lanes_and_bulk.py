"""`backstop lanes` and `jobs cancel | change | retry` refuse what names nothing, or two things, without the API."""

import pytest
from typer.testing import CliRunner

from backstop.cli.main import app


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lanes", "pause", "--why", "w"), "give --model, --tenant, --tag or --account, or --all"),
        (("lanes", "pause", "--model", "m"), "--why"),
        (("lanes", "resume", "--why", "w"), "give the id of a pause, or the options"),
        (("lanes", "resume", "pause_1", "--model", "m", "--why", "w"), "give the id of a pause, or the options"),
        (("lanes", "resume", "--model", "m"), "--why"),
        (("jobs", "cancel"), "give ids of jobs, or --session"),
        (("jobs", "cancel", "a", "--model", "m"), "not both"),
        (("jobs", "cancel", "--model", "m", "--execute"), "give a reason with --why"),
        (("jobs", "cancel", "--all", "--execute", "--why", " "), "give a reason with --why"),
        (("jobs", "change", "--all"), "give --priority, --deadline or both"),
        (("jobs", "change", "--priority", "bulk"), "give ids of jobs, or --session"),
        (("jobs", "change", "--all", "--priority", "urgent"), "interactive"),
        (("jobs", "change", "--all", "--deadline", "soon"), "not a time"),
        (("jobs", "change", "a", "--tag", "t", "--priority", "bulk"), "not both"),
        (("jobs", "change", "--all", "--priority", "bulk", "--execute"), "give a reason with --why"),
        (("jobs", "retry"), "give ids of jobs, or --session"),
        (("jobs", "retry", "a", "--all"), "not both"),
        (("jobs", "retry", "--all", "--execute"), "give a reason with --why"),
    ],
)
def test_what_names_nothing_is_refused(arguments: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(app, [*arguments, "--url", "http://127.0.0.1:1"])
    assert done.exit_code == 2
    assert told in done.output
