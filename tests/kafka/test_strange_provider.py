"""The whole system before a provider that is not the simulator, and behaves as public reports of others tell.

Each job ends as ARCHITECTURE.md says ("What does a refusal mean?", "When is a response over?"), whatever its provider
does, and is paid once. What passes (a wrong key, an overload, a provider that is frozen) fails no job.
"""

import base64
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from backstop.dev.broker import Owned
from backstop.dev.ports import HOST, Ports
from backstop.dev.system import RealOpenAI
from tests.providers.servers import Process
from tests.support.outside_run import Run, backstop, running
from tests.support.waiting import wait_until

SECRET = base64.b64encode(b"of the strange provider, 32 byte").decode()
KINDS = {
    "plain": "completed", "long_id": "completed", "error_in_200": "completed", "instant": "completed",
    "null_output": "completed", "foreground": "completed", "list": "completed", "text_first": "completed",
    "locked_first": "completed", "fails_first": "completed", "missing_once": "completed", "stuck": "completed",
    "short_length": "completed", "two_lengths": "completed", "cut": "completed", "head_alone": "completed",
    "words": "failed",
}  # fmt: skip
"""How the jobs of each model end."""
ACCEPTED = {"fails_first": 2, "stuck": 2, "words": 0}
"""Responses of each job, where it is not one: the first one failed without usage, or hung and was cancelled."""
MODELS = 5
SETTINGS = {
    "BACKSTOP_POLL_SCHEDULE": "fixed", "BACKSTOP_FIRST_POLL_MS": "1500", "BACKSTOP_POLL_SPACING_MIN_MS": "1000",
    "BACKSTOP_POLL_SPACING_MAX_MS": "2000", "BACKSTOP_SUBMISSION_MISSING_GRACE_MS": "1000",
    "BACKSTOP_SUBMISSION_STUCK_AFTER_MS": "6000", "BACKSTOP_SUBMISSION_BACKOFF_BASE_MS": "500",
}  # fmt: skip
FLOWS_WITHIN_S = 60.0
"""After a condition has passed."""
ODD_PATIENCE_S = 600.0
PROBES_MAX = 20
"""Creates of the account while it is refused: those in flight at the first refusal, and the probes."""


@dataclass(frozen=True)
class Scale:
    each: int
    """Jobs of each kind, and of each model in an outage."""
    away_s: float
    frozen_s: float


SHORT, LONG = Scale(2, 5.0, 5.0), Scale(20, 150.0, 60.0)


@dataclass
class Provider:
    process: Process
    root: str

    def seen(self) -> dict[str, Any]:
        with urlopen(f"{self.root}/seen", timeout=20) as answer:
            return dict(json.loads(answer.read()))

    def set(self, **how: str) -> None:
        with urlopen(Request(f"{self.root}/set", json.dumps(how).encode()), timeout=20) as answer:
            assert answer.status == 200

    def accepted(self) -> Counter[str]:
        """Responses by job."""
        return Counter(job for _, job, _, _ in self.seen()["responses"])


@contextmanager
def strange(folder: Path, port: int) -> Iterator[Provider]:
    root = f"http://{HOST}:{port}"
    command = (sys.executable, "-m", "tests.support.strange_provider", "--port", str(port), "--secret", SECRET)
    process = Process("the strange provider", command, os.environ, folder / "strange.log", f"{root}/seen")
    with running(process):
        yield Provider(process, root)


def submitted(run: Run, models: list[str], each: int, what: str) -> list[str]:
    jobs = [(f"{what}-{model}-{number}", model) for number in range(each) for model in models]
    for job, model in jobs:
        run.submit(job, model, f"prompt of {job}")
    return [job for job, _ in jobs]


def kinds(run: Run, provider: Provider, each: int) -> list[str]:
    jobs = submitted(run, sorted(KINDS), each, "kind")
    run.read_results(jobs, 180)
    ends = {result.job_id: result for result in run.results}
    wrong = [
        str(ends.get(job, job)) for job in jobs if job not in ends or ends[job].outcome != KINDS[job.split("-")[1]]
    ]
    assert not wrong, "\n".join(wrong)
    words = {str(ends[job].reason) for job in jobs if "-words-" in job}
    assert all("the input is too short for this model" in said for said in words), words
    accepted = provider.accepted()
    costs = {job: accepted[job] for job in jobs if accepted[job] != ACCEPTED.get(job.split("-")[1], 1)}
    assert not costs, costs
    cancelled = {model for model, _, _, cancelled in provider.seen()["responses"] if cancelled}
    assert cancelled == {"stuck"}
    return jobs


def lasts(seconds: float) -> None:
    """A condition of the provider lasts, in real time, as long as it is said to."""
    over_s = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= over_s, seconds + 30, "its end")


def outage(run: Run, provider: Provider, how: str, scale: Scale) -> list[str]:
    """The account is refused, or the provider is overloaded: jobs wait, and begin when it has passed."""
    before = len(provider.seen()["refused"])
    provider.set(away=how)
    jobs = submitted(run, [f"model{number}" for number in range(MODELS)], scale.each, how)
    wait_until(lambda: "provider_" in str(run.ask("/v1/attention")["findings"]), 30, "a finding about the provider")
    lasts(scale.away_s)
    refused = len(provider.seen()["refused"]) - before
    provider.set(away="")
    began_s = time.monotonic()
    run.read_results(jobs, FLOWS_WITHIN_S, quiet_s=0.5)
    assert_completed_once(run, provider, jobs, f"{how}: {refused} creates refused", began_s)
    if how != "503":  # The account is one lane; an overload is each model's own.
        assert refused <= PROBES_MAX + scale.away_s / 20
    return jobs


def frozen(run: Run, provider: Provider, scale: Scale) -> list[str]:
    jobs = submitted(run, [f"model{number}" for number in range(MODELS)], scale.each, "before")
    process = provider.process._running
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        jobs += submitted(run, [f"model{number}" for number in range(MODELS)], scale.each, "meanwhile")
        lasts(scale.frozen_s)
    finally:
        provider.process.signal(signal.SIGCONT)
    began_s = time.monotonic()
    run.read_results(jobs, FLOWS_WITHIN_S + scale.frozen_s, quiet_s=0.5)
    assert_completed_once(run, provider, jobs, "frozen", began_s)
    return jobs


def assert_completed_once(run: Run, provider: Provider, jobs: list[str], what: str, began_s: float) -> None:
    ends = {result.job_id: result.outcome for result in run.results}
    accepted = provider.accepted()
    paid = sum(accepted[job] for job in jobs) / len(jobs)
    said = (
        f"{what}; {len(jobs)} jobs, {paid:.3f} responses a job, all ended {time.monotonic() - began_s:.1f} s after it"
    )
    print(f"\n{said}", file=sys.stderr)
    assert Counter(ends.get(job, "open") for job in jobs) == {"completed": len(jobs)}, said
    assert paid <= 1.01, said


def whole(folder: Path, broker: Owned, port: int, scale: Scale, *, odd: bool) -> None:
    with strange(folder, port) as provider:
        openai = RealOpenAI("sk-strange", f"{provider.root}/v1", f"whsec_{SECRET}")
        with backstop(folder / "b", openai, SETTINGS, broker.bootstrap) as run:
            provider.set(hooks=f"{run.system.url}/webhooks/openai")
            odd_jobs, began_s = submitted(run, ["odd_status"] if odd else [], scale.each, "odd"), time.monotonic()
            jobs = kinds(run, provider, scale.each)
            for how in ("401", "503", "quota") if odd else ("401", "503"):
                jobs += outage(run, provider, how, scale)
            jobs += frozen(run, provider, scale)
            if odd:
                run.read_results(odd_jobs, ODD_PATIENCE_S + 60 - (time.monotonic() - began_s))
                ends = [result for result in run.results if result.job_id in odd_jobs]
                assert {(end.outcome, str(end.reason and end.reason.code)) for end in ends} == {
                    ("incomplete", "unknown_status")
                }
                assert {provider.accepted()[job] for job in odd_jobs} == {1}
            counts = Counter(result.job_id for result in run.results)
            assert set(counts.values()) == {1}, "I2"
            assert set(counts) == {*jobs, *odd_jobs}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_kind_ends_as_it_should_and_what_passes_fails_no_job(
    broker: Owned, ports: Ports, tmp_path: Path
) -> None:  # fmt: skip
    whole(tmp_path, broker, ports.draw(), SHORT, odd=False)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_the_same_for_minutes_with_many_jobs_and_a_status_that_is_passed_on(
    broker: Owned, ports: Ports, tmp_path: Path
) -> None:  # fmt: skip
    whole(tmp_path, broker, ports.draw(), LONG, odd=True)
