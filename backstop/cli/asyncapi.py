"""The AsyncAPI 3 document of the topics that other teams write or read, made of the messages themselves.

`python -m backstop.cli.asyncapi > docs/asyncapi.json`; a test compares the two. `backstop schemas export` writes it
with the names of topics that the settings give.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import orjson
from pydantic import BaseModel, TypeAdapter

from backstop.runtime.release import release
from receiver.openapi_form import plain
from schemas.dead_letters import DeadLetter, DeadLetterResolved
from schemas.jobs import JobFact
from schemas.requests import Cancel, Submit
from schemas.responses import ResponseFact
from schemas.results import JobResult
from schemas.topics import BY_NAME, Topic, TopicName

REF: Final = "#/components/schemas/{model}"
ABOUT: Final = (
    "Topics of Backstop that other services write or read. Each record is JSON with the headers of CloudEvents 1.0 "
    "(Kafka binding, binary mode). Consumers of `results` read with isolation level `read_committed`. A new release "
    "may add optional fields; readers pass over fields that they don't know."
)


@dataclass(frozen=True, slots=True)
class PublicTopic:
    """A topic of the document."""

    name: TopicName
    messages: tuple[type[BaseModel], ...]
    action: Literal["send", "receive"]
    """What Backstop does: `receive` what others write, or `send` what others read."""
    operation: str


def _members(union: Any) -> tuple[type[BaseModel], ...]:
    return tuple(get_args(get_args(union)[0]))


PUBLIC: Final = (
    PublicTopic("requests", (Submit, Cancel), "receive", "takeRequests"),
    PublicTopic("results", (JobResult,), "send", "publishResults"),
    PublicTopic("dead-letters", (DeadLetter, DeadLetterResolved), "send", "reportUnprocessableRecords"),
    PublicTopic("jobs", _members(JobFact), "send", "logFactsOfJobs"),
    PublicTopic("responses", _members(ResponseFact), "send", "logFactsOfResponses"),
)

_HEADERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "CloudEvents 1.0, Kafka binding, binary mode. A repeat of a record has the same source and id.",
    "required": ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "content-type"],
    "properties": {
        "ce_specversion": {"type": "string", "enum": ["1.0"]},
        "ce_id": {"type": "string", "description": "The message's `id`."},
        "ce_source": {"type": "string", "description": "`/backstop/PROCESS`."},
        "ce_type": {"type": "string", "description": "`backstop.TYPE.vVERSION`, for example `backstop.job_result.v1`."},
        "ce_subject": {"type": "string", "description": "The record's key."},
        "ce_time": {"type": "string", "format": "date-time"},
        "content-type": {"type": "string", "enum": ["application/json"]},
    },
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """A JSON Schema (draft 2020-12) for each message, by its name; each is complete in itself."""
    kinds = {kind.__name__: kind for topic in PUBLIC for kind in topic.messages}
    return {name: TypeAdapter(kind).json_schema(mode="validation") for name, kind in sorted(kinds.items())}


def document(prefix: str) -> dict[str, Any]:
    """The AsyncAPI 3 document, with the full names of topics.

    :param prefix: what all topics begin with.
    """
    made, shared = TypeAdapter.json_schemas(
        [(kind.__name__, "validation", TypeAdapter(kind)) for topic in PUBLIC for kind in topic.messages],
        ref_template=REF,
    )
    schemas = {**{name: schema for (name, _mode), schema in made.items()}, **shared.get("$defs", {})}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Backstop", "version": release(), "description": ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic, prefix) for topic in PUBLIC},
        "operations": {
            topic.operation: {
                "action": topic.action,
                "channel": {"$ref": f"#/channels/{topic.name}"},
                "messages": [
                    {"$ref": f"#/channels/{topic.name}/messages/{kind.__name__}"} for kind in topic.messages
                ],
            }
            for topic in PUBLIC
        },
        "components": {
            "messages": {kind.__name__: _message(kind, topic) for topic in PUBLIC for kind in topic.messages},
            "schemas": {name: _as_asyncapi(plain(schema)) for name, schema in sorted(schemas.items())},
        },
    }  # fmt: skip


def page(prefix: str) -> bytes:
    """The document as indented JSON, with a final newline."""
    return orjson.dumps(document(prefix), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _channel(topic: PublicTopic, prefix: str) -> dict[str, Any]:
    table = BY_NAME[topic.name]
    return {
        "address": table.full_name(prefix),
        "description": f"{table.holds}. Key: {table.key}.",
        "messages": {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in topic.messages},
        "bindings": {"kafka": {"topicConfiguration": _configuration(table), "bindingVersion": "0.5.0"}},
    }


def _configuration(table: Topic) -> dict[str, Any]:
    return {"cleanup.policy": table.cleanup.split(","), "retention.ms": table.retention_ms}


def _message(kind: type[BaseModel], topic: PublicTopic) -> dict[str, Any]:
    message: dict[str, Any] = {"name": get_args(kind.model_fields["type"].annotation)[0], "title": kind.__name__}
    if kind.__doc__:
        message["summary"] = kind.__doc__.strip().partition("\n\n")[0].replace("\n    ", " ")
    message["contentType"] = "application/json"
    if topic.action == "send":
        message["headers"] = dict(_HEADERS)
    message["payload"] = {"$ref": REF.format(model=kind.__name__)}
    message["bindings"] = {"kafka": {"key": {"type": "string"}, "bindingVersion": "0.5.0"}}
    return message


def _as_asyncapi(schema: Any) -> Any:
    """AsyncAPI's discriminator is the name of a property, where OpenAPI's and pydantic's is an object."""
    if isinstance(schema, list):
        return [_as_asyncapi(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _as_asyncapi(value) for name, value in schema.items()}
    found = kept.get("discriminator")
    if isinstance(found, dict) and "propertyName" in found:
        kept["discriminator"] = found["propertyName"]
    return kept


if __name__ == "__main__":
    from backstop.runtime.settings import RuntimeSettings

    sys.stdout.buffer.write(page(RuntimeSettings.model_fields["topic_prefix"].default))
