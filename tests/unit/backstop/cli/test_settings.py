"""Every setting is shown with where it came from; no secret is."""

import json

import pytest
from typer.testing import CliRunner, Result

from backstop.cli.main import app
from backstop.dev.system import real_openai
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.read_settings import read
from receiver.settings import ReceiverSettings

SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtMQ=="


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["settings", *arguments])


def shown(*arguments: str) -> dict[str, dict[str, object]]:
    done = run("-o", "json", *arguments)
    assert done.exit_code == 0, done.output
    return {row["setting"]: row for row in json.loads(done.stdout)}


def test_settings_of_every_process_are_shown_once_with_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKSTOP_PARTITIONS", "12")
    rows = shown()
    assert (rows["BACKSTOP_PARTITIONS"]["value"], rows["BACKSTOP_PARTITIONS"]["source"]) == (12, "set")
    assert {row["process"] for row in rows.values()} == {"runtime", "receiver", "streams", "readmodel", "outgoing"}
    assert [name for name, row in rows.items() if not row["description"]] == []


def test_settings_of_a_group_are_shown_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKSTOP_SUBMISSION_RETRIES_MAX", "7")
    row = shown("--only", "submission_retries")["BACKSTOP_SUBMISSION_RETRIES_MAX"]
    assert (row["value"], row["source"]) == (7, "set")


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "OPENAI_API_KEY": "sk-live-1234567890",
        "BACKSTOP_WEBHOOK_SECRETS": SECRET,
        "BACKSTOP_KAFKA_SASL_PASSWORD": "hunter2hunter2",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    for output in (run().output, run("-o", "json").output):
        assert not [value for value in secrets.values() if value in output]
        assert output.count("(set, hidden)") == 3


def test_a_wrong_setting_is_named_and_its_value_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKSTOP_PORT", "sk-pasted-here-by-mistake")
    with pytest.raises(ConfigurationError) as caught:
        read(ReceiverSettings)
    assert "BACKSTOP_PORT: must be a valid integer" in str(caught.value)
    assert "sk-pasted" not in str(caught.value)


def test_a_worker_without_a_key_says_what_to_set_before_it_polls_for_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nowhere.invalid:9092")
    monkeypatch.setenv("BACKSTOP_CLEAR_TEXT", "true")
    done = CliRunner().invoke(app, ["worker"])
    assert isinstance(done.exception, ConfigurationError)
    assert "set OPENAI_API_KEY" in str(done.exception)


def test_the_real_provider_needs_a_key_or_the_word_that_it_asks_for_none() -> None:
    with pytest.raises(ConfigurationError, match="BACKSTOP_OPENAI_KEYLESS"):
        real_openai({})
    assert real_openai({"BACKSTOP_OPENAI_KEYLESS": "true", "OPENAI_BASE_URL": "http://h/v1"}).api_key == ""
