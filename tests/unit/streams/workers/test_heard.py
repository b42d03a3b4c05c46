"""Each fault gives the same report to a real client of the real simulator and to the workers of the simulation."""

import asyncio

import pytest
from aiohttp import web

from backstop.simulator.app import build_app
from backstop.simulator.catalogue import KINDS
from backstop.simulator.config import SimulatorConfig
from backstop.simulator.loading import merge_profile
from backstop.simulator.profiles import PRESETS
from streams.openai.answers import Fault, ProviderAnswer, Reply, read_create
from streams.provider import Accepted
from tests.simulation.provider import HEARD
from tests.simulation.test_aimed import HEARD_AS
from tests.support.accounts import account_at, client_of

KEY = "sk-simulator"
BROKEN_OFF = ("cut", "broken_json")
"""The simulator's answers break off behind the id, so they are acceptances; those of the simulation, before it."""
SLOW = "slow"
"""Heard as what it is, later."""


def heard(fault: str) -> Reply:
    async def scenario() -> Reply:
        profile = merge_profile(PRESETS["calm"], {"rates": {fault: 1.0}})
        app = build_app(SimulatorConfig(profile=profile, api_keys=(KEY,)))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = client_of(account_at(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", KEY))
        try:
            asked = {"model": "m", "input": "Hi"}
            return await client.create(asked, job_id="job_1", attempt=1, tenant="acme", timeout_ms=300)
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(scenario())


def shape(reply: Reply) -> object:
    """All that the verdict on a create may depend on, without the texts."""
    if isinstance(reply, Fault):
        return reply.kind
    body = reply.body if not isinstance(reply.body, dict) or reply.body == {} else "an object"
    return reply.status, repr(body) if reply.status < 300 else ""


@pytest.mark.parametrize("side", ["accept", "refuse"])
@pytest.mark.parametrize("kind", [kind for kind in HEARD_AS if kind not in BROKEN_OFF])
def test_the_simulation_answers_as_the_simulator_is_heard(kind: str, side: str) -> None:
    assert shape(heard(f"create_{side}_{kind}")) == shape(HEARD[HEARD_AS[kind]])


@pytest.mark.parametrize("kind", BROKEN_OFF)
def test_an_answer_that_breaks_off_behind_the_id_is_heard_as_an_acceptance(kind: str) -> None:
    accepted = read_create(heard(f"create_accept_{kind}"), 0)
    assert isinstance(accepted, Accepted)
    assert accepted.response_id.startswith("resp_")


@pytest.mark.parametrize("kind", BROKEN_OFF)
def test_a_refusal_that_breaks_off_is_no_acceptance(kind: str) -> None:
    assert not isinstance(read_create(heard(f"create_refuse_{kind}"), 0), Accepted)


def test_no_kind_of_fault_is_left_out() -> None:
    assert {*HEARD_AS, SLOW} == set(KINDS)
    assert isinstance(HEARD["html"], ProviderAnswer)
