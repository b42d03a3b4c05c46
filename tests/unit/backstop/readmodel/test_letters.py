"""`POST /v1/dead-letters/decide` without a broker: what is refused, and what a caller may not decide.

What is put back and dropped is in `tests/browser/test_page.py`, on a real broker.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from backstop.runtime.settings import RuntimeSettings
from receiver.app import _answer_with_problems
from receiver.limits import Limits
from receiver.reads.letter_routes import LETTERS_MAX
from receiver.reads.letters import add_letter_routes
from schemas.dead_letters import DeadLetterResolved
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.serving import RIGHTS, Client, running, served
from tests.unit.backstop.readmodel.test_dead_letters import letter

ENDED_MS = 1_800_000_000_000


class Api(Client):
    async def decide(
        self, *ids: str, answered: int = 200, tenant: str = "default", scopes: str = "operate", **body: Any
    ) -> Any:
        headers = {"X-Test-Tenant": tenant, "X-Test-Scopes": scopes}
        asked = {"ids": ids, "decision": "drop", **body}
        async with self.session.post("/v1/dead-letters/decide", headers=headers, json=asked) as answer:
            assert answer.status == answered, await answer.text()
            return await answer.json(content_type=None)


@asynccontextmanager
async def api(bench: Bench) -> AsyncIterator[Api]:
    projection = await Projection(bench.another()).take_over()
    app = web.Application(middlewares=[_answer_with_problems])
    settings = RuntimeSettings(kafka_bootstrap_servers="127.0.0.1:1")
    add_letter_routes(app, settings, bench.another(), RIGHTS, lambda: ENDED_MS, Limits(publish_s=0.2))
    async with served(app) as session:
        yield Api(session, projection)


@pytest.fixture
def with_api(run: Any) -> Any:
    return running(run, api)


def test_a_decision_that_is_not_whole_is_refused(with_api: Any) -> None:
    async def body(api: Api) -> None:
        for wrong in ({"execute": True}, {"decision": "mend"}, {"why": " "}, {"by": "x" * 101}, {"surplus": 1}):
            assert (await api.decide("a", answered=422, **wrong))["code"] == "bad_request", wrong
        many = [str(number) for number in range(LETTERS_MAX + 1)]
        assert (await api.decide(*many, answered=422))["code"] == "bad_request"
        assert (await api.decide(answered=422))["code"] == "bad_request"

    with_api(body)


def test_only_the_tenants_own_letters_are_decided_and_each_once(with_api: Any) -> None:
    async def body(api: Api) -> None:
        theirs = letter(id="requests.x:1", topic="requests.x", record_key="x:j")
        done = letter(id="requests:1", topic="requests")
        nobodys = letter(id="none", topic=None)
        decision = DeadLetterResolved(
            id="d", at_ms=ENDED_MS, dead_letter_id=done.id, resolution="dropped", by="me"
        )  # fmt: skip
        await api.take(theirs, done, nobodys, decision)
        ids = [theirs.id, done.id, nobodys.id, "never"]
        for execute in (False, True):
            answer = await api.decide(*ids, execute=execute, why="A test.")
            assert (answer["executed"], answer["data"]) == (False, [])
            assert answer["left_out"] == [
                {"id": theirs.id, "because": "there is no such dead letter"},
                {"id": done.id, "because": "it was dropped already"},
                {"id": nobodys.id, "because": "there is no such dead letter"},
                {"id": "never", "because": "there is no such dead letter"},
            ]

    with_api(body)


def test_without_a_broker_a_decision_says_that_it_may_be_sent_again(with_api: Any) -> None:
    async def body(api: Api) -> None:
        await api.take(letter(id="none", topic=None))
        told = await api.decide("none", answered=503, scopes="operate,admin")
        assert told["code"] == "log_unavailable"
        assert told["detail"] == "The log did not answer in time. It is safe to send the decision again."

    with_api(body)
