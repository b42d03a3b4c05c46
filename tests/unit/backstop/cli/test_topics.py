"""The table of topics as the command shows it."""

import json
import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from typer.testing import CliRunner

from backstop.cli.settings import bootstrap_settings
from backstop.cli.topics import app
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.topics import FoundTopic, compare, wanted_topics
from schemas.topics import CHANGELOGS, TOPICS


def test_the_list_names_the_requests_topics_of_tenants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKSTOP_TOPIC_PREFIX", "p.")
    monkeypatch.setenv("BACKSTOP_REQUEST_TENANTS", "acme,globex")
    done = CliRunner().invoke(app, ["list", "-o", "json"])
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == [
        *(f"p.{topic.name}" for topic in (*TOPICS, *CHANGELOGS)), "p.requests.acme", "p.requests.globex",
    ]  # fmt: skip
    assert [row["written_by"] for row in rows[-2:]] == ["acme", "globex"]
    assert {row["retention_h"] for row in rows if row["name"] == "p.webhook-endpoints"} == {"for ever"}


def _listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *flags: str) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKSTOP_TOPIC_PREFIX", "Team_A.")
    monkeypatch.setenv("BACKSTOP_REQUEST_TENANTS", "acme")
    done = CliRunner().invoke(app, ["list", *flags])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_terraform_makes_each_topic_with_all_that_the_check_looks_at(monkeypatch, tmp_path):
    made = json.loads(_listed(monkeypatch, tmp_path, "-o", "terraform"))["resource"]["kafka_topic"]
    wanted = {topic.name: topic for topic in wanted_topics(bootstrap_settings())}
    assert {resource["name"] for resource in made.values()} == set(wanted)
    found = {
        resource["name"]: FoundTopic(
            resource["name"], resource["partitions"], resource["replication_factor"], resource["config"]
        )
        for resource in made.values()
    }
    assert compare(list(wanted.values()), found) == ()
    assert all(name.isidentifier() for name in made), "Terraform takes no dots in names of resources"


def test_strimzi_makes_each_topic_under_a_name_that_kubernetes_takes(monkeypatch, tmp_path):
    documents = list(yaml.safe_load_all(_listed(monkeypatch, tmp_path, "-o", "strimzi", "--cluster", "events")))
    names = [document["metadata"]["name"] for document in documents]
    assert all(re.fullmatch(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?", name) for name in names)
    assert len(set(names)) == len(names) == len(wanted_topics(bootstrap_settings()))
    assert {document["metadata"]["labels"]["strimzi.io/cluster"] for document in documents} == {"events"}
    assert "Team_A.requests.acme" in {document["spec"]["topicName"] for document in documents}


@pytest.mark.parametrize("form", ["terraform", "strimzi"])
def test_two_tenants_whose_topics_would_be_one_resource_are_refused(form, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKSTOP_REQUEST_TENANTS", "a-b,a_b")
    done = CliRunner().invoke(app, ["list", "-o", form])
    assert isinstance(done.exception, ConfigurationError)
    assert "a-b and backstop.requests.a_b would be one resource" in str(done.exception)
