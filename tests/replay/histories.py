"""A recorded history: the records of both logs in the order in which they were folded, and what they must give.

One JSON object a line, of three kinds. A `record` has log, key and the value's exact text. Its `step` follows directly,
with the outputs' exact texts and the reason if the record was ignored. At the end each row has a `state` with its exact
text. Texts, not objects: they are compared byte for byte.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from schemas.base import Message
from schemas.codec import decode, encode
from schemas.jobs import JOB_FACT
from schemas.responses import RESPONSE_FACT
from streams.fold import job, response
from streams.fold.rows import encode_job_state, encode_response_state
from streams.fold.step import Step

V1 = Path(__file__).parent / "v1"
SUMS = "SHA256SUMS"
LogName = Literal["jobs", "responses"]


@dataclass
class Refold:
    """Both folds over records as bytes: parses, folds, and encodes the outputs, as the shell does."""

    rows: dict[tuple[LogName, str], Any] = field(default_factory=dict)

    def take(self, log: LogName, key: str, value: bytes) -> Step[Any]:
        done: Step[Any]
        if log == "jobs":
            done = job.step(self.rows.get((log, key), job.Absent()), decode(JOB_FACT, value))
        else:
            done = response.step(self.rows.get((log, key), response.AbsentResponse()), decode(RESPONSE_FACT, value))
        self.rows[log, key] = done.state
        return done

    def states(self) -> Iterator[dict[str, str]]:
        for (log, key), state in sorted(self.rows.items()):
            data = encode_job_state(state) if log == "jobs" else encode_response_state(state)
            yield {"kind": "state", "log": log, "key": key, "row": data.decode()}


def step_line(done: Step[Any]) -> dict[str, Any]:
    return {
        "kind": "step",
        "ignored": done.ignored.value if done.ignored else None,
        "outputs": [[output.topic, output.key, encode(output).decode()] for output in done.outputs],
    }


def record_line(message: Message) -> dict[str, Any]:
    return {"kind": "record", "log": message.topic, "key": message.key, "value": encode(message).decode()}


def dump(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def load(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def replayed(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that today's code gives for the records of these lines."""
    refold = Refold()
    made: list[dict[str, Any]] = []
    for line in lines:
        if line["kind"] == "record":
            made += [line, step_line(refold.take(line["log"], line["key"], line["value"].encode()))]
    return [*made, *refold.states()]
