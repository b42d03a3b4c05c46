"""The document of the public topics: as committed, complete, and true of the records that Backstop writes."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import ValidationError  # type: ignore[import-untyped]
from pydantic import TypeAdapter
from typer.testing import CliRunner

from backstop.cli.asyncapi import PUBLIC, document, json_schemas, page
from backstop.cli.main import app
from backstop.runtime.kafka.headers import event_headers
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import encode
from schemas.dead_letters import DEAD_LETTER_RECORD
from schemas.jobs import JOB_FACT
from schemas.requests import REQUEST
from schemas.responses import RESPONSE_FACT
from schemas.results import RESULT, JobResult
from schemas.topics import BY_NAME
from tests.unit.schemas.messages import MESSAGES

COMMITTED = Path(__file__).parents[4] / "docs" / "asyncapi.json"
PREFIX = RuntimeSettings.model_fields["topic_prefix"].default
READERS: dict[str, TypeAdapter[Any]] = {
    "requests": REQUEST, "results": RESULT, "dead-letters": DEAD_LETTER_RECORD, "jobs": JOB_FACT,
    "responses": RESPONSE_FACT,
}  # fmt: skip
(RESULT_WRITTEN,) = (message for message in MESSAGES if isinstance(message, JobResult))


def test_the_committed_document_is_made_from_the_messages():
    assert COMMITTED.read_bytes() == page(PREFIX), "run: python -m backstop.cli.asyncapi > docs/asyncapi.json"


def test_a_topic_has_exactly_the_messages_that_its_reader_takes():
    for topic in PUBLIC:
        schema = READERS[topic.name].json_schema()
        taken = (
            {choice["$ref"].rpartition("/")[2] for choice in schema["oneOf"]}
            if "oneOf" in schema
            else {schema["title"]}
        )
        assert {kind.__name__ for kind in topic.messages} == taken


def test_addresses_and_retention_are_those_of_the_table():
    channels = document("p.")["channels"]
    for name, channel in channels.items():
        assert channel["address"] == f"p.{name}"
        configuration = channel["bindings"]["kafka"]["topicConfiguration"]
        assert configuration["retention.ms"] == BY_NAME[name].retention_ms
        assert ",".join(configuration["cleanup.policy"]) == BY_NAME[name].cleanup


def _references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_every_reference_leads_somewhere():
    made = document(PREFIX)
    for reference in _references(made):
        place = made
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert place is not None


def test_each_message_that_backstop_writes_is_valid_by_its_schema():
    validators = {name: Draft202012Validator(schema) for name, schema in json_schemas().items()}
    written = [message for message in MESSAGES if type(message).__name__ in validators]
    assert {type(message).__name__ for message in written} == set(validators) - {"Submit", "Cancel"}
    for message in written:
        validators[type(message).__name__].validate(json.loads(encode(message)))


def test_an_altered_result_is_not_valid():
    altered = {**json.loads(encode(RESULT_WRITTEN)), "outcome": "happy"}
    with pytest.raises(ValidationError, match="happy"):
        Draft202012Validator(json_schemas()["JobResult"]).validate(altered)


def test_the_headers_are_those_that_backstop_writes():
    written = {name: value.decode() for name, value in event_headers(RESULT_WRITTEN, "worker")}
    (headers,) = {json.dumps(message["headers"]) for message in document(PREFIX)["components"]["messages"].values()
                  if "headers" in message}  # fmt: skip
    Draft202012Validator(json.loads(headers)).validate(written)
    assert set(json.loads(headers)["required"]) == set(written)


def test_export_writes_all_of_it_under_the_prefix_of_the_settings(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKSTOP_TOPIC_PREFIX", "team.")
    done = CliRunner().invoke(app, ["schemas", "export", "out"])
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "out" / "asyncapi.json").read_text())
    assert made["channels"]["results"]["address"] == "team.results"
    for path in (tmp_path / "out").glob("*.schema.json"):
        Draft202012Validator.check_schema(json.loads(path.read_text()))
    assert len(list((tmp_path / "out").iterdir())) == 1 + len(json_schemas())
