"""A number of a record fits a column of a database, or the record is a dead letter. No reader fails on it forever."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import schemas
from schemas.base import Message
from schemas.codec import PoisonError, decode
from schemas.dead_letters import DEAD_LETTER_RECORD

INT64 = range(-(2**63), 2**63)

for _found in pkgutil.iter_modules(schemas.__path__):
    importlib.import_module(f"schemas.{_found.name}")


def messages(of: type[Message] = Message) -> Iterator[type[Message]]:
    for kind in of.__subclasses__():
        yield kind
        yield from messages(kind)


def unbounded(schema: Any, where: str = "") -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from unbounded(item, where)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "integer" and "const" not in schema and "enum" not in schema:
        bounds = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
        if not all(isinstance(bound, int) and bound in INT64 for bound in bounds):
            yield where
    for name, inner in schema.items():
        yield from unbounded(inner, f"{where}/{name}")


@pytest.mark.parametrize("kind", sorted(set(messages()), key=str))
def test_every_whole_number_of_a_message_has_bounds(kind: type[Message]) -> None:
    assert [where for where in unbounded(kind.model_json_schema()) if "JsonValue" not in where] == []


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1, -(2**63) - 1, 2**64, 1e30])
def test_a_dead_letter_of_an_offset_that_no_broker_has_is_refused(offset: float) -> None:
    origin = {"topic": "requests", "partition": 0, "offset": offset, "timestamp_ms": 0}
    letter = {
        "type": "dead_letter", "id": "requests:0:1", "at_ms": 1, "component": "intake", "reason": "invalid",
        "detail": "", "origin": origin,
    }  # fmt: skip
    with pytest.raises(PoisonError):
        decode(DEAD_LETTER_RECORD, json.dumps(letter).encode())
