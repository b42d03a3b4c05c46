"""Background against foreground: the sample, its plan, the pairs against a real server, and what they show."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from backstop.audit.latency.foreground import (
    AnswerPair,
    SampledRequest,
    SampleReading,
    TimedAnswer,
    foreground_figures,
)
from backstop.audit.latency.foreground_text import foreground_section, verdict
from backstop.cli.report import app
from backstop.simulator.running import RunningSimulator, running
from schemas.base import BlobBody, InlineBody, Usage
from tests.support import builders as b
from tests.unit.backstop.audit.test_whatif import bundle_of
from tests.unit.backstop.audit.world import World

KEY = "sk-one"
HARMFUL: tuple[dict[str, Any], ...] = (
    {"input": "x", "tools": [{"type": "mcp", "server_label": "s"}]},
    {"input": "x", "conversation": "conv_1"},
    {"input": "x", "stream": True},
)


def world(jobs: int = 6) -> World:
    made = World()
    for number in range(jobs):
        made.whole_job(f"job-{number}", b.T0 + 1_000 * number)
    for number, body in enumerate(HARMFUL):
        made.tell(b.submitted(job_id=f"harm-{number}", request=InlineBody(value=body)))
    made.tell(b.submitted(job_id="large", request=BlobBody(sha256="b" * 64, size_bytes=9)))
    return made


def drawn(of: World, pairs: int, until_ms: int = 1 << 50) -> tuple[list[SampledRequest], dict[str, int]]:
    reading = SampleReading(0, until_ms, pairs)
    for topic in ("jobs", "results"):
        reading.take(of.topic(topic))
    return reading.done(), dict(reading.left_out)


def test_the_sample_is_drawn_by_the_jobs_ids_and_leaves_out_what_may_act_twice() -> None:
    made = world()
    three, left_out = drawn(made, 3)
    assert left_out == {
        "they have a tool that may act": 1, "their request is in the blob store": 1,
        "they stream, write to a conversation or have a completion window": 2,
    }  # fmt: skip
    assert [each.job_id for each in three] == [each.job_id for each in drawn(made, 5)[0]][:3]
    assert len({each.job_id for each in three}) == 3
    assert all(each.body == b.REQUEST.value for each in three)
    assert drawn(made, 5, until_ms=b.T0)[0] == []


def test_the_cost_is_expected_from_what_the_job_used() -> None:
    made, used = World(), Usage(input_tokens=10, output_tokens=20, total_tokens=30)
    for fact in (b.submitted(b.T0), b.accepted(b.T0 + 10), b.observed(b.T0 + 30, usage=used)):
        made.tell(fact)
        made.work()
    assert [each.usage for each in drawn(made, 5)[0]] == [used]


def pair(foreground_ms: int, background_ms: int, end: str = "completed") -> AnswerPair:
    return AnswerPair(
        "m", TimedAnswer("completed", foreground_ms, foreground_ms), TimedAnswer(end, background_ms, background_ms)
    )


@pytest.mark.parametrize(("longer_ms", "said"), [
    (5_000, "The background took longer: in the median of the pairs by +5.0 s, between +4.0 s and +6.0 s."),
    (-5_000, "The background took less time: in the median of the pairs -5.0 s, between -6.0 s and -4.0 s."),
    (0, "No difference is shown"),
])  # fmt: skip
def test_the_pairs_show_a_difference_only_where_there_is_one(longer_ms: int, said: str) -> None:
    pairs = [pair(20_000, 20_000 + longer_ms + 1_000 * (number % 5 - 2)) for number in range(40)]
    figures = foreground_figures([*pairs, pair(1, 900_000, "failed")])
    assert (figures.asked, figures.run.pairs) == (41, 40)
    assert said in verdict(figures.run)
    assert said in foreground_section(figures)
    assert "40 completed, 1 failed" in foreground_section(figures)


def test_few_pairs_show_nothing() -> None:
    figures = foreground_figures([pair(1_000, 9_000)] * 4)
    assert verdict(figures.run) == "4 pairs are too few to tell whether the background takes longer."


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSimulator]:
    """The simulator as a process of its own, named by the settings."""
    with running(api_key=KEY, time_scale=40.0) as simulator:
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield simulator


def test_nothing_is_sent_before_it_is_asked_for_and_then_each_request_goes_twice(
    provider: RunningSimulator, tmp_path: Path
) -> None:
    bundle, html = bundle_of(world(), tmp_path / "a.bundle"), tmp_path / "report.html"
    asked = ["latency", "--since", "1", "--bundle", str(bundle), "--foreground", "2"]
    plan = CliRunner().invoke(app, [*asked, "-o", "json"])
    assert plan.exit_code == 0, plan.output
    assert [(row["model"], row["answers"]) for row in orjson.loads(plan.stdout)] == [(b.MODEL, 4)]
    assert "Nothing was sent" in CliRunner().invoke(app, asked).stdout
    assert provider.ledger("creates") == []
    done = CliRunner().invoke(app, [*asked, "--execute", "--html", str(html), "-o", "json"])
    assert done.exit_code == 0, done.output
    told = orjson.loads(done.stdout)["foreground"]
    assert told["ends"] == {side: {"completed": 2} for side in ("foreground", "background")}
    assert told["run"]["pairs"] == 2
    assert len(provider.ledger("creates")) == 4
    assert "Background against foreground" in html.read_text()


def test_an_interrupted_comparison_reports_the_pairs_that_are_paid_and_cancels_the_others(
    provider: RunningSimulator, tmp_path: Path
) -> None:
    made, stuck = world(1), {"model": b.MODEL, "input": "x", "metadata": {"sim_fault": "run_stuck_in_progress"}}
    made.tell(b.submitted(job_id="stuck", request=InlineBody(value=stuck)))
    bundle = bundle_of(made, tmp_path / "a.bundle")
    asked = ["report", "latency", "--since", "1", "--bundle", str(bundle), "--foreground", "2", "--execute"]
    command = [sys.executable, "-P", "-m", "backstop.cli", *asked, "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "1 of 2 pairs\n"
        process.send_signal(signal.SIGINT)
        told = orjson.loads(process.stdout.read())["foreground"]
        assert process.stderr.read() == "interrupted: the report has 1 of 2 pairs\n"
    assert process.returncode == 0
    assert (told["asked"], told["ends"]["foreground"]) == (1, {"completed": 1})
    assert [line["op"] for line in provider.ledger("calls") if line["op"] == "cancel"] == ["cancel"]


def test_execute_alone_is_refused(tmp_path: Path) -> None:
    bundle = bundle_of(world(1), tmp_path / "a.bundle")
    found = CliRunner().invoke(app, ["latency", "--since", "1", "--bundle", str(bundle), "--execute"])
    assert (found.exit_code, "--execute sends the requests of --foreground" in found.output) == (2, True)
