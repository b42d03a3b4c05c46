"""`backstop outgoing` as a process, with a real broker and endpoints: delivered, retried, abandoned, sent again."""

import asyncio
import json
import os
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import OpenAI
from standardwebhooks.webhooks import Webhook
from typer.testing import CliRunner

from backstop.cli.main import app
from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.ports import Ports
from backstop.dev.system import Shape, running_system
from backstop.outgoing.deliveries import asked, planned
from schemas.dead_letters import DeadLetter
from schemas.deliveries import DeliveryDead, DeliveryDone, DeliveryFailed, ResendAsked, ResendDone
from schemas.webhook_endpoints import EndpointSwitched
from tests.kafka.outgoing_rig import (
    KEY,
    KEYS,
    REF,
    WITHIN_S,
    attempts,
    came,
    listening,
    result,
    rig,
    run,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(120)


def test_a_result_is_delivered_retried_given_up_and_sent_again(broker: Owned, prefix: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with rig(broker, prefix, tmp_path) as it, it.outgoing():
            listener = it.listener
            good = await it.endpoint("/good")
            flaky = await it.endpoint("/flaky", "flaky")
            down, gone = await it.endpoint("/down", "down"), await it.endpoint("/gone", "gone")

            async def hang() -> int:
                await asyncio.sleep(5)  # longer than an attempt may take
                return 200

            listener.replies["/flaky"] = lambda number: hang() if number == 2 else {1: 500}.get(number, 204)
            listener.replies["/down"] = lambda _number: 503
            listener.replies["/gone"] = lambda _number: 410
            old = result("resp_old", at_ms=1_000)
            names = {"acme": "resp_good", "flaky": "resp_flaky", "down": "resp_down", "gone": "resp_gone"}
            results = {tenant: result(name, tenant) for tenant, name in names.items()}
            await it.publish(old, result("resp_other", "unknown"), *results.values())

            # Delivered, and signed so that both oracles take it.
            (webhook,) = await came(listener, "resp_good")
            secret = KEYS.shown(good, REF)
            event = OpenAI(api_key="x").webhooks.unwrap(webhook.body, webhook.headers, secret=secret)
            assert (event.type, event.data.id) == ("response.completed", "resp_good")  # type: ignore[union-attr]
            assert Webhook(secret).verify(webhook.body, webhook.headers) == json.loads(webhook.body)
            assert webhook.webhook_id == planned(results["acme"], good, 1).delivery_id

            # Retried after 500 and after a timeout, under one id.
            webhooks = await came(listener, "resp_flaky", 3)
            assert {one.webhook_id for one in webhooks} == {planned(results["flaky"], flaky, 1).delivery_id}
            assert len({one.body for one in webhooks}) == 1

            # Given up after the last attempt, with a dead letter.
            letters = await it.until("dead-letters", DeadLetter, 2)
            facts = await it.until("deliveries", DeliveryDead, 2)
            assert {(fact.delivery.endpoint_id, fact.dead_by, fact.attempt) for fact in facts} == {
                (down, "gave_up", 3), (gone, "gone", 1),
            }  # fmt: skip
            assert {letter.reason for letter in letters} == {"undeliverable"}
            assert len(listener.of("resp_down")) == 3

            # 410 has disabled its endpoint: nothing more goes there.
            (switched,) = await it.until("webhook-endpoints", EndpointSwitched)
            assert (switched.endpoint_id, switched.enabled) == (gone, False)
            await it.until("deliveries", DeliveryDone, 2)
            await it.publish(result("resp_gone_2", "gone"), result("resp_good_2"))
            await came(listener, "resp_good_2")
            assert listener.of("resp_gone_2") == []

            # Sent again by hand, one and then all: also what was delivered, each under its first id.
            listener.replies.clear()
            await it.publish(asked(results["down"], down, int(time.time() * 1000)))
            *_, again = await came(listener, "resp_down", 4)
            assert again.webhook_id == planned(results["down"], down, 1).delivery_id
            until_ms = int(time.time() * 1000)
            await it.publish(
                ResendAsked(
                    id="resend/1", at_ms=until_ms, endpoint_id=good, tenant="acme", until_ms=until_ms,
                    since_ms=until_ms - 60_000,
                )
            )  # fmt: skip
            (resent,) = await it.until("deliveries", ResendDone)
            assert (resent.count, resent.complete) == (2, True)
            for name in ("resp_good", "resp_good_2"):
                assert len({one.webhook_id for one in await came(listener, name, 2)}) == 1

            await it.until("deliveries", DeliveryDone, 6)
            facts = await it.on("deliveries")
            flaky_id = planned(results["flaky"], flaky, 1).delivery_id
            assert attempts(facts, flaky_id) == [("delivery_failed", 1), ("delivery_failed", 2), ("delivery_done", 3)]
            failed_by = [fact.failed_by for fact in facts if isinstance(fact, DeliveryFailed) and fact.key == flaky_id]
            assert failed_by == ["status", "timeout"]
            for name in ("resp_old", "resp_other", "resp_gone_2"):
                assert listener.of(name) == [], name
        said = it.log.read_text()
        assert "whsec_" not in said
        assert KEY not in said
        assert "Traceback" not in said

    run(story())


def test_killed_at_any_step_it_is_delivered_again_under_the_same_id_and_never_lost(
    broker: Owned, prefix: str, tmp_path: Path
) -> None:
    async def killed_at(name: str) -> Counter[str]:
        async with rig(broker, f"{prefix}{name}.", tmp_path) as it:
            endpoint_id = await it.endpoint("/hook")
            one = result("resp_1")
            await it.publish(one)
            async with it.outgoing(f"outgoing.{name}=kill") as process:
                await eventually(lambda: process.poll() == -signal.SIGKILL, WITHIN_S, f"the kill at {name}")
            before = len(it.listener.webhooks)
            async with it.outgoing():
                (done,) = await it.until("deliveries", DeliveryDone)
                await it.publish(result("resp_2"))
                await came(it.listener, "resp_2")  # what came after the crash was not held up
            webhooks = it.listener.of("resp_1")
            assert {webhook.webhook_id for webhook in webhooks} == {done.delivery_id}
            assert done.delivery_id == planned(one, endpoint_id, 1).delivery_id
            return Counter(before=before, after=len(webhooks) - before)

    async def story() -> None:
        names = ("planned", "taken", "answered", "reported")
        found = await asyncio.gather(*map(killed_at, names))
        assert dict(zip(names, found, strict=True)) == {
            "planned": {"before": 0, "after": 1},
            "taken": {"before": 0, "after": 1},
            "answered": {"before": 1, "after": 1},  # sent, and not yet written down
            "reported": {"before": 1, "after": 0},
        }

    run(story())


async def metric(port: int, line: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        found = [row for row in (await answer.text()).splitlines() if row.startswith(f"{line} ")]
    return float(found[0].split()[-1]) if found else 0.0


@pytest.mark.long
def test_two_processes_share_the_work_and_one_that_is_killed_leaves_it_to_the_other(
    broker: Owned, prefix: str, tmp_path: Path
) -> None:
    async def story() -> None:
        ports = Ports()
        first_port, second_port = ports.draw(), ports.draw()
        delivered = 'backstop_outgoing_attempts_total{result="delivered"}'

        async def ready(port: int) -> bool:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                return answer.status == 200

        def health(port: int) -> dict[str, str]:
            return {"BACKSTOP_OUTGOING_HEALTH_PORT": str(port)}

        async with rig(broker, prefix, tmp_path) as it, it.outgoing(**health(first_port)) as first:
            await it.endpoint("/hook")
            await eventually(lambda: ready(first_port), WITHIN_S, "the first to be ready", poll_s=0.1)
            async with it.outgoing(**health(second_port)):
                await eventually(lambda: ready(second_port), WITHIN_S, "the second to be ready", poll_s=0.1)
                await it.publish(*(result(f"resp_a{number}") for number in range(40)))
                await eventually(
                    lambda: len({one.response_id for one in it.listener.webhooks}) == 40, WITHIN_S, "40 hooks"
                )
                shares = [await metric(port, delivered) for port in (first_port, second_port)]
                assert sum(shares) == len(it.listener.webhooks) == 40, "each once, while no process fails"
                assert min(shares) > 0
                await it.publish(*(result(f"resp_b{number}") for number in range(40)))
                first.kill()
                await it.publish(*(result(f"resp_c{number}") for number in range(10)))
                await eventually(
                    lambda: len({one.response_id for one in it.listener.webhooks}) == 90, WITHIN_S, "90 hooks"
                )
            ids = defaultdict(set)
            for webhook in it.listener.webhooks:
                ids[webhook.response_id].add(webhook.webhook_id)
            assert all(len(found) == 1 for found in ids.values())
        ports.release()

    run(story())


@pytest.mark.slow
def test_in_the_whole_system_openais_sdk_registers_and_unwraps(
    broker: Owned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "BACKSTOP_"))}
        shape = Shape(
            folder=tmp_path, environment={**BRISK, **kept, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}, port=0,
            partitions=2, time_scale=20.0, webhooks=True,
        )  # fmt: skip
        async with listening() as listener, running_system(shape, print, lambda _kill: None) as system:
            client = OpenAI(base_url=f"{system.url}/v1", api_key="any")

            def used() -> tuple[str, str, str]:
                made = client.webhooks.create(
                    name="mine", url=f"{listener.url}/hook", event_types=["response.completed"]
                )
                asked_for = client.responses.create(model="gpt-5.2", input="Say hello.", background=True)
                return made.id, made.signing_secret, asked_for.id

            endpoint_id, secret, response_id = await asyncio.to_thread(used)
            (webhook,) = await came(listener, response_id)
            event = client.webhooks.unwrap(webhook.body, webhook.headers, secret=secret)
            assert (event.type, event.data.id) == ("response.completed", response_id)  # type: ignore[union-attr]
            ended = await asyncio.to_thread(client.responses.retrieve, event.data.id)  # type: ignore[union-attr]
            assert ended.status == "completed"

            monkeypatch.setenv("BACKSTOP_URL", system.url)
            monkeypatch.setenv("BACKSTOP_TOPIC_PREFIX", system.runtime.topic_prefix)
            monkeypatch.setenv("BACKSTOP_PARTITIONS", "2")
            monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)

            async def backstop(*arguments: str) -> Any:
                done = await asyncio.to_thread(CliRunner().invoke, app, ["webhooks", *arguments, "-o", "json"])
                assert done.exit_code == 0, done.output
                return json.loads(done.stdout)

            (listed,) = await backstop("list")
            assert (listed["id"], listed["enabled"]) == (endpoint_id, True)
            (everywhere,) = await backstop("list", "--all-tenants")
            assert (everywhere["id"], everywhere["tenant"]) == (endpoint_id, "default")
            tested = await backstop("test", endpoint_id)
            assert (tested["state"], tested["status"]) == ("delivered", 200)
            await backstop("resend", endpoint_id, "--job", response_id)
            assert {one.webhook_id for one in await came(listener, response_id, 2)} == {webhook.webhook_id}
            deliveries = await backstop("deliveries", endpoint_id)
            assert {(one["response_id"], one["state"]) for one in deliveries} >= {(response_id, "delivered")}
            client.close()

    run(story())
