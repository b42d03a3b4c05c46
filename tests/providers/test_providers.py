"""Backstop, all of it, before servers that others wrote: each job is completed, and none is run that need not be.

Settings are the defaults but for what a test names. Neither server sends webhooks, so every end is found by polling.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from backstop.dev.ports import Ports
from backstop.dev.system import RealOpenAI
from schemas.results import JobResult
from tests.providers.servers import LiteLlm, Ogx, Stub
from tests.providers.stub import text_of
from tests.support.outside_run import Run, backstop, running
from tests.support.waiting import wait_until

STUCK_AFTER: Mapping[str, str] = {"BACKSTOP_SUBMISSION_STUCK_AFTER_MS": "30000"}
"""The policy for responses that show no change."""

BEGUN_WITHIN_S, ENDED_WITHIN_S = 240.0, 900.0


def submit(run: Run, model: str, count: int) -> list[str]:
    jobs = [f"job-{number}" for number in range(count)]
    for number, job in enumerate(jobs):
        run.submit(job, model, f"prompt {number}")
    return jobs


def assert_answered_right(results: list[JobResult]) -> None:
    """Each got the text that its own prompt gives."""
    for result in results:
        number = result.job_id.removeprefix("job-")
        assert text_of(f"prompt {number}") in json.dumps(result.model_dump(mode="json")["response"]), result.job_id


@pytest.mark.timeout(1_500)
def test_a_server_that_is_killed_in_the_middle_of_200_jobs_loses_none(
    venv: Path, ports: Ports, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub(tmp_path, ports.draw(), run_s=1.0)
    ogx = Ogx(venv, tmp_path / "ogx", ports.draw(), stub)
    openai = RealOpenAI("sk-ogx", ogx.base_url, "")
    with running(stub.process, ogx.process), backstop(tmp_path / "b", openai, STUCK_AFTER) as run:
        jobs = submit(run, ogx.model, 200)
        wait_until(lambda: sum(stub.calls().values()) >= 60, BEGUN_WITHIN_S, "60 of the runs to have begun")
        ogx.process.kill()
        ogx.process.start()
        run.read_results(jobs, ENDED_WITHIN_S)
        figures = run.told(responses=len(ogx.responses()), runs=sum(stub.calls().values()))
    with capsys.disabled():
        print(f"\nOGX killed in the middle of 200 jobs: {figures}", file=sys.stderr)
    assert run.outcomes() == {"completed": 200}, figures
    assert_answered_right(run.results)


@pytest.mark.timeout(900)
def test_ten_jobs_through_a_proxy_whose_ids_are_long_and_change_are_ten_responses(
    venv: Path, ports: Ports, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub(tmp_path, ports.draw(), run_s=0.2)
    ogx = Ogx(venv, tmp_path / "ogx", ports.draw(), stub)
    proxy = LiteLlm(venv, tmp_path / "litellm", ports.draw(), ogx)
    with (
        running(stub.process, ogx.process, proxy.process),
        backstop(tmp_path / "b", RealOpenAI(proxy.key, proxy.base_url, ""), {}) as run,
    ):
        run.read_results(submit(run, proxy.model, 10), ENDED_WITHIN_S)
        figures = run.told(responses=len(ogx.responses()), runs=sum(stub.calls().values()))
        responses = ogx.responses()
    with capsys.disabled():
        print(f"\nLiteLLM before OGX, 10 jobs: {figures}", file=sys.stderr)
    assert run.outcomes() == {"completed": 10}, figures
    assert len(responses) == 10, figures
    assert_answered_right(run.results)
