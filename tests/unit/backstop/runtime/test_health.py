"""What `/livez`, `/readyz` and `/startupz` say, and why."""

import asyncio
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from backstop.runtime.http.health import Health, add_routes
from backstop.runtime.release import release


def ask(health: Health, *paths: str, registry: CollectorRegistry | None = None) -> list[tuple[int, Any]]:
    async def run() -> list[tuple[int, Any]]:
        app = web.Application()
        add_routes(app, health, registry or CollectorRegistry())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port = runner.addresses[0][1]
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                answers: list[tuple[int, Any]] = []
                for path in paths:
                    async with session.get(path) as answer:
                        body = await (answer.json() if answer.content_type == "application/json" else answer.text())
                        answers.append((answer.status, body))
                return answers
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def test_ready_only_when_every_condition_is_met_and_says_what_is_missing() -> None:
    health = Health("worker")
    health.expect("assigned", "recovered")
    health.met("assigned")
    ((status, body),) = ask(health, "/readyz")
    assert (status, body) == (503, {"ok": False, "reasons": {"recovered": "not yet"}})
    health.met("recovered")
    assert ask(health, "/readyz") == [(200, {"ok": True, "reasons": {}})]


def test_a_note_is_shown_and_stops_nothing() -> None:
    health, complaint = Health("serve"), ["worker uses another store"]
    health.watch("blob_stores", lambda: complaint[0] or None, "note")
    noted = {"ok": True, "reasons": {}, "notes": {"blob_stores": complaint[0]}}
    assert ask(health, "/readyz", "/livez") == [(200, noted), (200, {"ok": True, "reasons": {}})]
    complaint[0] = ""
    assert ask(health, "/readyz") == [(200, {"ok": True, "reasons": {}})]


def test_a_condition_can_be_lost_again_with_its_reason() -> None:
    health = Health("worker")
    health.met("broker")
    health.unmet("broker", "no answer for 12 s")
    assert health.not_ready() == {"broker": "no answer for 12 s"}


def test_started_stays_true_when_readiness_is_lost() -> None:
    health = Health("worker")
    health.expect("assigned")
    assert health.not_started() == {"assigned": "not yet"}
    health.met("assigned")
    assert health.not_ready() == {}
    health.unmet("assigned", "rebalancing")
    assert ask(health, "/startupz", "/readyz") == [
        (200, {"ok": True, "reasons": {}}),
        (503, {"ok": False, "reasons": {"assigned": "rebalancing"}}),
    ]


def test_a_process_without_progress_is_neither_live_nor_ready() -> None:
    health = Health("worker")
    health.watch("progress", lambda: "partition 3 stands still for 70 s", "live")
    (live, _), (ready, body) = ask(health, "/livez", "/readyz")
    assert (live, ready) == (503, 503)
    assert body["reasons"] == {"progress": "partition 3 stands still for 70 s"}


def test_metrics_and_version_are_served() -> None:
    registry = CollectorRegistry()
    Counter("backstop_things", "Things.", registry=registry).inc(3)
    (_, metrics), (_, version) = ask(Health("serve"), "/metrics", "/version", registry=registry)
    assert "backstop_things_total 3.0" in metrics
    assert version == {"version": release(), "component": "serve", "failpoints": {}}
