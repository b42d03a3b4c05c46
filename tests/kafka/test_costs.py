"""The cost ledger of the whole system equals the provider's own ledger, to the token and to the last digit of a dollar.

With retries, a reply that was lost, a cancelled job, tiers, windows, cached prompts, and a model without a price. A
job's own cap and a budget that stops hold by the same ledger.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape
from backstop.readmodel.ledger import IN_FLIGHT
from tests.kafka.held import held
from tests.kafka.recorded import ran_here
from tests.kafka.sdk_rig import Running, three_tenants
from tests.support.accepted import answered
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PRICES: dict[str, dict[str, Decimal]] = {
    "gpt-6-luna": {
        "input": Decimal("0.1"),
        "cached": Decimal("0.01"),
        "written": Decimal("0.125"),
        "output": Decimal("0.5"),
    },
    "own-model": {
        "input": Decimal("1.001"),
        "cached": Decimal("0.333"),
        "written": Decimal("1.001"),
        "output": Decimal("7.777"),
    },
}
"""Dollars per million tokens. The first are the shipped ones, the second those of the operator's own list."""
OWN_LIST = """
as_of = 2026-11-29
[[price]]
model = "own-model"
valid_from = 2026-01-01
input = 1.001
cached_input = 0.333
output = 7.777
tier_percent = { flex = 50, priority = 200 }
"""
FACTOR = {"default": Decimal(1), "flex": Decimal("0.5"), "priority": Decimal(2)}
WINDOW = {None: Decimal(1), "soonest": Decimal(1), "8h": Decimal("0.6")}
BUDGET = {"tenant": "globex", "per": "day", "usd": 0.0004, "stop": True}
ONE_BY_ONE = {"tenant": "globex", "concurrent": 3}
"""So that few jobs run when the budget is used up."""
KNOWN_WITHIN_MS = 3_000
"""After a stop was written, workers know of it: two seconds, and some for a machine that is busy."""
UNPRICED = "a-model-without-a-price"
LONG_PROMPT = "A prompt that is long enough to be cached. " * 120


@pytest.fixture(scope="module")
def running(broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("system")
    keys_file, keys = three_tenants(folder / "keys.json")
    prices = folder / "prices.toml"
    prices.write_text(OWN_LIST)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    shape = Shape(
        folder=folder,
        environment={**BRISK, **environment, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
        settings={
            "BACKSTOP_KEYS_FILE": str(keys_file),
            "BACKSTOP_PRICES_FILE": str(prices),
            "BACKSTOP_BUDGETS": json.dumps([BUDGET]),
            "BACKSTOP_LIMITS": json.dumps([ONE_BY_ONE]),
        },
        port=0,
        partitions=2,
        time_scale=20.0,
    )
    with held(shape) as system:
        yield Running(system, keys)


def ask(running: Running, path: str, body: Any = None, tenant: str = "acme") -> Any:
    headers = {"Authorization": f"Bearer {running.keys[tenant]}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    return json.loads(answered(Request(running.system.url + path, data, headers)))


def submit(running: Running, job_id: str, model: str = "gpt-6-luna", fault: str | None = None, **more: Any) -> str:
    request = {"model": model, "input": "Hi.", "metadata": {"sim_fault": fault} if fault else {}, **more}
    ask(running, "/v1/jobs", {"job_id": job_id, "request": request, "tags": [job_id.partition("-")[0]]})
    return job_id


def is_over(running: Running, job_id: str, tenant: str = "acme") -> bool:
    return bool(ask(running, f"/v1/jobs/{job_id}", tenant=tenant)["terminal"])


def test_both_ledgers_agree(running: Running) -> None:
    cached = {"input": LONG_PROMPT, "prompt_cache_key": "shared"}
    jobs = [
        *(submit(running, f"cached-{number}", **cached) for number in range(6)),
        submit(running, "own-flex", "own-model", service_tier="flex", reasoning={"effort": "low"}, **cached),
        submit(running, "own-priority", "own-model", service_tier="fast", **cached),
        submit(running, "window", background_options={"completion_window": "8h"}, **cached),
        submit(running, "retried-paid", fault="run_failed_usage@1", **cached),
        submit(running, "retried-free", fault="run_failed@1"),
        submit(running, "refused", fault="create_429_requests@1"),
        submit(running, "lost", fault="create_accept_close@1"),
        submit(running, "twice", fault="create_accept_close@1 webhook_lost@1 run_stuck_in_progress@1"),
        submit(running, "odd", UNPRICED),
        submit(running, "incomplete", fault="run_incomplete"),
        submit(running, "empty", fault="run_empty_output"),
    ]
    stuck = submit(running, "cancelled", fault="run_stuck_in_progress")
    wait_until(lambda: ask(running, f"/v1/jobs/{stuck}")["status"] == "running", 30, "the job to run", poll_s=0.1)
    ask(running, f"/v1/jobs/{stuck}/cancel", {})
    for job_id in (*jobs, stuck):
        wait_until(partial(is_over, running, job_id), 90, job_id, poll_s=0.2)

    creates, ends = (lines(running.system.ledgers / f"{name}.jsonl") for name in ("creates", "tokens"))
    told = [line for line in ends if line["cost"] == "usage"]
    free = sum(line["cost"] == "none" for line in ends)
    answer = measured(running, len(told) + free)
    total = answer["total"]
    for ours, theirs in (("input_tokens", "input_tokens"), ("output_tokens", "output_tokens")):
        assert total[ours] == sum(line["usage"][theirs] for line in told), ours
    for ours in ("cached_tokens", "cache_write_tokens"):
        assert total[ours] == sum(line["usage"]["input_tokens_details"][ours] for line in told) > 0, ours
    assert total["reasoning_tokens"] == sum(line["usage"]["output_tokens_details"]["reasoning_tokens"] for line in told)
    assert Decimal(total["cost_usd"]) == sum(cost(line) for line in told if line["model"] in PRICES)
    assert total["attempts"] == len(creates)
    assert total["unpriced"] == sum(line["model"] == UNPRICED for line in told) == 1
    assert total["unmeasured"] == len(creates) - len(told) - free

    for by in ("model", "tag", "day", "outcome", "service_tier", "window", "tenant,model,outcome"):
        groups = ask(running, f"/v1/costs?by={by}")["data"]
        assert sum(Decimal(group.get("cost_usd", "0")) for group in groups) == Decimal(total["cost_usd"]), by
        assert sum(group["attempts"] for group in groups) == total["attempts"], by
    of_jobs = [ask(running, f"/v1/jobs/{job_id}")["cost"] for job_id in (*jobs, stuck)]
    assert sum(Decimal(each.get("cost_usd", "0")) for each in of_jobs) == Decimal(total["cost_usd"])
    by_outcome = {group["outcome"]: group["attempts"] for group in ask(running, "/v1/costs?by=outcome")["data"]}
    assert by_outcome.keys() >= {"completed", "failed", "incomplete", "cancelled"}
    assert ask(running, "/v1/costs", tenant="globex")["total"]["attempts"] == 0

    shown = backstop(running, "acme", "costs", "--by", "model", "--csv").stdout
    assert shown.splitlines()[0].startswith("model,cost_usd,attempts,unmeasured,unpriced")
    assert UNPRICED in shown


def measured(running: Running, attempts: int) -> Any:
    """The costs, once the read model has taken all ends that the provider told."""

    def poll() -> Any:
        answer = ask(running, "/v1/costs?by=model")
        known = answer["total"]["attempts"] - answer["total"]["unmeasured"]
        return answer if known >= attempts else None

    return wait_until(poll, 60, f"the usage of {attempts} responses", poll_s=0.5)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def cost(line: dict[str, Any]) -> Decimal:
    """The dollars of one line of the provider's ledger, reckoned here anew."""
    prices, usage = PRICES[line["model"]], line["usage"]
    cached, written = (usage["input_tokens_details"][name] for name in ("cached_tokens", "cache_write_tokens"))
    fresh = usage["input_tokens"] - cached - written
    dollars = (
        fresh * prices["input"] + cached * prices["cached"] + written * prices["written"]
        + usage["output_tokens"] * prices["output"]
    ) / 1_000_000  # fmt: skip
    return dollars * FACTOR["default" if line["tier"] == "auto" else line["tier"]] * WINDOW[line["window"]]


def test_a_job_spends_no_more_than_its_cap_and_says_so(running: Running) -> None:
    """Its first attempt fails and is paid; a retry would go beyond what is left."""
    request = {"model": "own-model", "input": "Hi.", "metadata": {"sim_fault": "run_failed_usage@1"}}
    caps: dict[str, dict[str, Any]] = {
        "tokens": {"max_tokens_spent": 50}, "dollars": {"max_cost_usd": 0.001}, "enough": {"max_tokens_spent": 10**6},
    }  # fmt: skip
    for name, cap in caps.items():
        ask(running, "/v1/jobs", {"job_id": f"capped-{name}", "request": request, **cap})
    long = {**request, "input": "word " * 100}
    ask(running, "/v1/jobs", {"job_id": "capped-input", "request": long, "max_tokens_spent": 100})
    shown = {}
    for name in (*caps, "input"):
        wait_until(partial(is_over, running, f"capped-{name}"), 60, name, poll_s=0.2)
        shown[name] = ask(running, f"/v1/jobs/capped-{name}")
    creates = lines(running.system.ledgers / "creates.jsonl")
    made = {name: sum(line.get("job") == f"acme:capped-{name}" for line in creates) for name in shown}
    assert made == {"tokens": 1, "dollars": 1, "enough": 2, "input": 0}
    assert {name: each["status"] for name, each in shown.items()} == {
        "tokens": "failed", "dollars": "failed", "enough": "completed", "input": "rejected",
    }  # fmt: skip
    spent = shown["tokens"]["result"]["usage"]["total_tokens"]
    for name, words in (("tokens", f"max_tokens_spent is 50: {spent:,} tokens are spent"), ("dollars", "max_cost_usd")):
        reason = shown[name]["result"]["reason"]
        assert reason["code"] == "cost_cap"
        assert words in reason["message"]
        assert "server_error" in reason["message"]
    told = " ".join(ask(running, "/v1/jobs/capped-input/why")["sentences"])
    assert "its own cap leaves no room" in told
    assert "It cost nothing" in told


@pytest.mark.long
def test_a_budget_that_stops_is_exceeded_by_no_more_than_what_runs(running: Running) -> None:
    """The outputs of the budget, over HTTP and at the command line, say what is spent, reserved, left and held."""
    jobs = [f"held-{number}" for number in range(60)]
    for job_id in jobs:
        ask(running, "/v1/jobs", {"job_id": job_id, "request": {"model": "own-model", "input": "Hi."}}, "globex")

    def stopped() -> Any:
        """An attempt that began before the workers knew of the stop reserves its cost until it is held."""
        if any(ask(running, f"/v1/jobs/{each}", tenant="globex")["status"] in IN_FLIGHT for each in jobs):
            return None
        (budget,) = ask(running, "/v1/costs", tenant="globex")["budgets"]
        pauses = [each for each in ask(running, "/v1/lanes", tenant="globex")["pauses"] if "budget" in each]
        known = any(each["since_ms"] + KNOWN_WITHIN_MS < time.time() * 1_000 for each in pauses)
        return budget if known and budget.get("used_up") and Decimal(budget["reserved_usd"]) == 0 else None

    budget = wait_until(stopped, 120, "the budget to be used up with nothing running", poll_s=0.3)
    (pause,) = [each for each in ask(running, "/v1/lanes", tenant="globex")["pauses"] if "budget" in each]
    ledgers = running.system.ledgers
    made = {line["response"]: line for line in lines(ledgers / "creates.jsonl") if line["job"] in _of("globex", jobs)}
    ends = {line["response"]: line for line in lines(ledgers / "tokens.jsonl") if line["response"] in made}
    assert ends.keys() == made.keys(), "nothing runs"
    spent = sum(cost(line) for line in ends.values())
    assert Decimal(budget["spent_usd"]) == spent
    limit, since_ms = Decimal(str(BUDGET["usd"])), pause["since_ms"]
    late = [line for line in made.values() if line["at_ms"] > since_ms + KNOWN_WITHIN_MS]
    assert not late, "no create after the workers knew"
    # What had ended just before the stop was not known to have ended: its reservation counted.
    ran = [end for end in ends.values() if end["at_ms"] > since_ms - KNOWN_WITHIN_MS]
    assert limit <= spent <= limit + sum(map(cost, ran))
    assert len(made) < len(jobs)

    assert {name: budget[name] for name in ("per", "limit_usd", "reserved_usd", "unknown", "stops", "used_up")} == {
        "per": "day", "limit_usd": "0.0004", "reserved_usd": "0", "unknown": 0, "stops": True, "used_up": True,
    }  # fmt: skip
    told = f"${budget['spent_usd']} spent and $0 reserved of $0.0004; alarm: 80 % are spent; creates are held"
    wait_until(lambda: told in backstop(running, "globex", "costs").stderr, 60, told, poll_s=0.3)
    shown = partial(backstop, running, "globex", "costs", "-o", "json")
    wait_until(lambda: json.loads(shown().stdout)["budgets"] == [budget], 60, "the same as JSON", poll_s=0.3)
    waits = next(job_id for job_id in jobs if f"globex:{job_id}" not in {line["job"] for line in made.values()})
    assert "The budget per day of tenant globex holds creates" in backstop(running, "globex", "why", waits).stdout
    findings = ask(running, "/v1/attention", tenant="globex")
    assert "budget" in json.dumps(findings)
    assert ask(running, "/v1/costs", tenant="acme")["budgets"] == []
    for job_id in jobs:
        ask(running, f"/v1/jobs/{job_id}/cancel", {}, "globex")
    wait_until(partial(is_over, running, waits, "globex"), 30, "a held job to be cancelled", poll_s=0.2)
    assert ask(running, "/v1/costs", tenant="globex")["total"]["attempts"] == len(made), "what was held cost nothing"


def test_a_job_goes_on_with_another_model_and_its_cost_is_that_of_the_model_that_ran(running: Running) -> None:
    """One whose model refuses for good, and one whose model's lane is held."""
    faults = {"refused": "create_400@1", "lane": "create_401@1 create_401@2"}
    fallback = {"to": [{"model": "gpt-6-luna"}], "after_ms": 1_000}
    for why, fault in faults.items():
        request = {"model": f"{UNPRICED}-{why}", "input": "Hi.", "metadata": {"sim_fault": fault}}
        ask(running, "/v1/jobs", {"job_id": f"fell-{why}", "request": request, "fallback": fallback})
    for why in faults:
        wait_until(partial(is_over, running, f"fell-{why}"), 90, why, poll_s=0.2)
        shown = ask(running, f"/v1/jobs/fell-{why}")
        assert shown["status"] == "completed", shown
        (brief,) = shown["result"]["fallbacks"]
        asked = (brief["model"], brief["instead_of"], brief["why"])
        assert asked == ("gpt-6-luna", f"{UNPRICED}-{why}", why)
        assert shown["result"]["attempts"][-1]["model"] == "gpt-6-luna"
        (made,) = [
            line for line in lines(running.system.ledgers / "creates.jsonl") if line["job"] == f"acme:fell-{why}"
        ]
        assert made["model"] == "gpt-6-luna"
        (end,) = [
            line for line in lines(running.system.ledgers / "tokens.jsonl") if line["response"] == made["response"]
        ]
        assert Decimal(shown["cost"]["cost_usd"]) == cost(end)
        told = backstop(running, "acme", "why", f"fell-{why}").stdout
        assert f"The job went on with gpt-6-luna instead of {UNPRICED}-{why}" in told
        assert "gpt-6-luna from attempt" in backstop(running, "acme", "jobs", "show", f"fell-{why}").stdout
    (ran,) = [each for each in ask(running, "/v1/costs?by=model")["data"] if each["model"] == "gpt-6-luna"]
    assert {f"{UNPRICED}-{why}" for why in faults} <= set(ran["asked_models"])
    both = {(each["model"], each["asked_model"]) for each in ask(running, "/v1/costs?by=model,asked_model")["data"]}
    assert both >= {("gpt-6-luna", f"{UNPRICED}-{why}") for why in faults}
    assert f"{UNPRICED}-lane" in backstop(running, "acme", "costs").stdout


def _of(tenant: str, job_ids: list[str]) -> set[str]:
    return {f"{tenant}:{job_id}" for job_id in job_ids}


def backstop(
    running: Running, tenant: str, *arguments: str, check: bool = True, environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """The command in this process, which takes a tenth of the time that another process takes to start."""
    own = {"BACKSTOP_URL": running.system.url, "BACKSTOP_API_KEY": running.keys[tenant]}
    done = ran_here(arguments, {**os.environ, **own, **(environment or {})})
    ran = subprocess.CompletedProcess(arguments, done.code, done.out, done.err)
    if check:
        ran.check_returncode()
    return ran
