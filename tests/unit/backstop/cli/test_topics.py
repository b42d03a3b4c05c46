"""The table of topics as the command shows it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backstop.cli.topics import app
from schemas.topics import TOPICS


def test_the_list_names_the_requests_topics_of_tenants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKSTOP_TOPIC_PREFIX", "p.")
    monkeypatch.setenv("BACKSTOP_REQUEST_TENANTS", "acme,globex")
    done = CliRunner().invoke(app, ["list", "-o", "json"])
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == [
        *(f"p.{topic.name}" for topic in TOPICS), "p.requests.acme", "p.requests.globex",
    ]  # fmt: skip
    assert [row["written_by"] for row in rows[-2:]] == ["acme", "globex"]
    assert {row["retention_h"] for row in rows if row["name"] == "p.webhook-endpoints"} == {"for ever"}
