"""No body holds up the loop: not of `serve`, where everybody waits behind it, and not of the worker's intake.

A pause counts as the least of a few tries: what is left then is the body's own cost, not the machine's other work.
"""

import asyncio
from pathlib import Path

import pytest

from backstop.runtime.records import Record
from schemas.dead_letters import DeadLetter
from schemas.jobs import JobRefused, JobSubmitted
from tests.hostile.bodies import REFUSED, TAKEN
from tests.hostile.pauses import least_pause_s
from tests.support.builders import T0
from tests.support.intakes import intake_of
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.receiver.ingress import Ingress, with_ingress

SERVE_PAUSE_S_MAX = 0.050
INTAKE_PAUSE_S_MAX = 0.100
ALL = {**REFUSED, **TAKEN}
JSON = {"Content-Type": "application/json"}


def unwrapped(body: bytes) -> bytes:
    """The same attack as a body of `/v1/responses`."""
    return body.replace(b'{"job_id":"h","request":{"model":"m"', b'{"background":true,"model":"m"', 1).removesuffix(
        b"}"
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/responses"])
def test_no_body_holds_up_the_doors(path: str, name: str) -> None:
    body = ALL[name] if path == "/v1/jobs" else unwrapped(ALL[name])

    async def story(ingress: Ingress) -> None:
        async def send() -> None:
            status, document, _ = await ingress.call("POST", path, data=body, headers=JSON)
            assert status in ({400, 422} if name in REFUSED else {200, 202}), document
            assert len(str(document)) < 10_000

        assert await least_pause_s(SERVE_PAUSE_S_MAX, send) <= SERVE_PAUSE_S_MAX

    with_ingress(story)


@pytest.mark.parametrize("name", ["lists in lists", "empty tags", "as many names as allowed"])
def test_many_bodies_at_one_time_hold_up_the_doors_no_longer(name: str) -> None:
    async def story(ingress: Ingress) -> None:
        async def send() -> None:
            sending = [ingress.call("POST", "/v1/jobs", data=ALL[name], headers=JSON) for _ in range(6)]
            await asyncio.gather(*sending)

        assert await least_pause_s(SERVE_PAUSE_S_MAX, send) <= SERVE_PAUSE_S_MAX

    with_ingress(story)


@pytest.mark.parametrize("name", ALL)
def test_no_record_holds_up_the_intake(tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        publisher = MemoryPublisher()
        intake = intake_of(publisher, tmp_path)
        value = ALL[name].replace(b'"job_id":"h"', b'"type":"submit","job_id":"h"', 1)
        records = [Record("requests", 0, offset, T0, b"h", value, ()) for offset in range(3)]

        async def take() -> None:
            await intake.take(records)

        pause_s = await least_pause_s(INTAKE_PAUSE_S_MAX, take)
        kinds = {type(message) for message in publisher.acked}
        assert kinds == ({DeadLetter, JobRefused} if name in REFUSED else {JobSubmitted})
        assert pause_s <= INTAKE_PAUSE_S_MAX

    asyncio.run(scenario())
