"""What really happened can be read afterwards, and the server can be steered while it runs."""

import asyncio
import json
from pathlib import Path

import openai
import pytest

from backstop.simulator.clock import Clock
from backstop.simulator.ledgers import LineLedger
from tests.support.waiting import eventually
from tests.unit.backstop.simulator.harness import NEVER_S, profile, world


def test_a_create_is_recorded_with_what_it_was_for() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(extra_headers={"Idempotency-Key": "k"})
            (line,) = await w.ledger("creates")
            at_ms = line.pop("at_ms")
            assert at_ms > 1_700_000_000_000
            assert line == {
                "n": 1,
                "response": created.id,
                "job": "job_1",
                "attempt": "1",
                "tenant": "acme",
                "model": "gpt-6-astra",
                "metadata": {"backstop_job": "job_1", "backstop_attempt": "1", "backstop_tenant": "acme"},
                "background": True,
                "retry_count": 0,
                "idempotency_key": "k",
                "window": None,
                "continued": False,
                "fault": None,
                "run_fault": None,
                "replied": True,
                "of_job": 0,
                "repeat": 0,
            }

    asyncio.run(case())


def test_a_repeated_attempt_is_counted() -> None:
    async def case() -> None:
        async with world(retries=2) as w:
            with pytest.raises(openai.APIConnectionError):
                await w.create(fault="create_accept_reset")
            await w.create(attempt="2")
            lines = await w.ledger("creates")
            assert [(line["retry_count"], line["of_job"], line["repeat"]) for line in lines] == [
                (0, 0, 0),
                (1, 1, 1),
                (2, 2, 2),
                (0, 3, 0),
            ]
            assert (await w.control("GET", "stats"))["repeats"] == 2

    asyncio.run(case())


def test_tokens_of_all_but_the_first_completed_response_of_a_job_are_wasted() -> None:
    async def case() -> None:
        async with world() as w:
            first = await w.create(attempt="1")
            await w.ended(first.id)
            await w.ended((await w.create(attempt="2")).id)
            loser = await w.create(attempt="3", metadata={"sim_run_s": NEVER_S})
            await w.sdk.responses.cancel(loser.id)
            lines = await w.ledger("tokens")
            assert [(line["attempt"], line["wasted"]) for line in lines] == [("1", False), ("2", True), ("3", True)]
            usage = (await w.sdk.responses.retrieve(first.id)).usage
            assert usage is not None
            assert lines[0]["tokens"] == usage.total_tokens

    asyncio.run(case())


def test_a_ledger_is_read_from_where_one_left_off() -> None:
    async def case() -> None:
        async with world() as w:
            for number in range(5):
                await w.create(job=f"job_{number}")
            assert [line["n"] for line in await w.ledger("creates", since=2)] == [3, 4, 5]
            assert [line["n"] for line in await w.ledger("creates", since=1, limit=2)] == [2, 3]
            assert await w.ledger("creates", since=5) == []
            async with w.http.get(f"{w.url}/sim/ledger/nothing") as answer:
                assert answer.status == 400

    asyncio.run(case())


def test_memory_keeps_the_newest_lines_and_the_file_all(tmp_path: Path) -> None:
    ledger = LineLedger("creates", Clock(1), tmp_path, lines_max=3)
    for number in range(5):
        ledger.write(value=number)
    assert [json.loads(line)["n"] for line in ledger.read(0, 10).splitlines()] == [3, 4, 5]
    assert (ledger.first, ledger.last) == (3, 5)
    ledger.close()
    assert len((tmp_path / "creates.jsonl").read_bytes().splitlines()) == 5
    resumed = LineLedger("creates", Clock(1), tmp_path)
    resumed.write(value=5)
    resumed.close()
    lines = (tmp_path / "creates.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_the_files_say_what_the_controls_say(tmp_path: Path) -> None:
    async def case() -> None:
        async with world(ledger_dir=tmp_path) as w:
            await w.ended((await w.create()).id)
            await w.webhooks(1)
            await eventually(lambda: w.ledger("deliveries"))
            for name in ("creates", "calls", "deliveries", "tokens", "truth"):
                lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
                assert [json.loads(line) for line in lines] == await w.ledger(name)
                assert lines

    asyncio.run(case())


def test_the_profile_changes_while_the_server_runs() -> None:
    async def case() -> None:
        async with world() as w:
            shown = await w.control("POST", "faults", {"rates": {"run_failed": 1.0}})
            assert shown["profile"]["rates"] == {"run_failed": 1.0}
            assert "webhook_lost" in shown["faults"]
            assert (await w.ended((await w.create(job="job_1")).id)).status == "failed"
            await w.control("POST", "faults", {"base": "calm", "models": {"*": {"run": {"kind": "fixed", "s": 0}}}})
            assert (await w.control("GET", "faults"))["profile"]["rates"] == {}

    asyncio.run(case())


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("faults", {"rates": {"webhook_lots": 0.1}}, "did you mean webhook_lost"),
        ("faults", {"rates": {"webhook_lost": 2}}, "rates.webhook_lost must be 0 to 1"),
        ("faults", {"rates": {"create_400": 0.6, "create_401": 0.6}}, "sum to 1.200"),
        ("faults", {"retention": 3}, "retention: no such field"),
        ("faults", {"models": {"*": {"run": {"kind": "gamma"}}}}, "models.*.run.kind"),
        ("faults", {"webhooks": {"timeout_real_s": "soon"}}, "webhooks.timeout_real_s: must be float"),
        ("aim", {"fault": "run_slow", "arg": "much"}, "must be a number"),
        ("aim", {"job": "job_1"}, "fault"),
        ("outage", {"for_s": 1, "mode": "flood"}, "mode: 'flood' is not one of"),
        ("webhook", {"endpoints": [{"url": "http://x", "secrets": ["whsec_"]}]}, "24-64 bytes"),
        ("emit", {"variant": "polite"}, "variant: 'polite'"),
        ("finish", {"response": "resp_0"}, "is not open"),
    ],
)
def test_a_wrong_control_names_the_field_and_changes_nothing(path: str, body: dict[str, object], words: str) -> None:
    async def case() -> None:
        async with world() as w:
            before = await w.control("GET", "faults")
            async with w.http.post(f"{w.url}/sim/{path}", json=body) as answer:
                assert answer.status == 400
                assert words in (await answer.json())["error"]
            assert await w.control("GET", "faults") == before

    asyncio.run(case())


def test_an_open_response_can_be_ended_on_command() -> None:
    async def case() -> None:
        async with world() as w:
            created = await w.create(metadata={"sim_run_s": NEVER_S})
            wanted = {"response": created.id, "status": "failed", "code": "rate_limit_exceeded", "webhook": False}
            await w.control("POST", "finish", wanted)
            ended = await w.sdk.responses.retrieve(created.id)
            assert ended.error is not None
            assert ended.error.code == "rate_limit_exceeded"
            assert w.receiver.got == []

    asyncio.run(case())


def test_the_oldest_ended_responses_are_forgotten_beyond_the_limit() -> None:
    async def case() -> None:
        async with world(profile(ended_max=2, responses_max=5)) as w:
            created = [await w.create(job=f"job_{number}", fault="create_terminal") for number in range(4)]
            for number, one in enumerate(created):
                assert (await w.raw("GET", f"/responses/{one.id}"))[0] == (200 if number >= 2 else 404)
            assert (await w.control("GET", "stats"))["in_memory"] == 2

    asyncio.run(case())


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"job": "j", "attempt": "2", "tenant": "t"}, ("j", "2", "t")),
        ({"job": "17", "tenant": "x"} | {"backstop_job": "j", "backstop_attempt": "2"}, ("j", "2", None)),
        ({"mine": "x"}, (None, None, None)),
    ],
    ids=["without the prefix", "with it, beside a user's own", "neither"],
)
def test_the_ledger_reads_both_names_of_what_a_create_is_for(
    metadata: dict[str, str], names: tuple[str | None, ...]
) -> None:
    async def case() -> None:
        async with world() as w:
            await w.sdk.responses.create(model="m", input="Hi", background=True, metadata=metadata)
            (line,) = await w.ledger("creates")
            assert (line["job"], line["attempt"], line["tenant"]) == names

    asyncio.run(case())
