"""The latency report: from facts to rows, figures and one HTML file."""

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from backstop.audit.latency.page import page
from backstop.audit.latency.rows import LOGS, LatencyReading, LatencyRows, ReportRangeError
from backstop.audit.latency.summary import MISSED_AFTER_MS, Summary, summarize
from backstop.cli.report import app
from schemas.base import Terms
from tests.support import builders as b
from tests.unit.backstop.audit.test_whatif import bundle_of
from tests.unit.backstop.audit.world import World

RUN_MS = 20_000
HOUR_MS = 3_600_000


def job(
    world: World, name: str, at_ms: int, *, webhook_ms: int | None = 500, model: str = "m", control: bool = False
) -> None:
    """A job whose response runs `RUN_MS`, and whose webhook comes so long after its end, or never."""
    rid, accepted_ms = f"resp_{name}", at_ms + 2_000
    end_ms = accepted_ms + RUN_MS
    world.tell(b.submitted(at_ms, job_id=name, model=model, tenant="secret-tenant"))
    world.work()
    world.tell(b.accepted(
        accepted_ms, job_id=name, response_id=rid, sent_at_ms=at_ms + 1_500, control=True if control else None,
        tenant="secret-tenant",
    ))  # fmt: skip
    world.work()
    if webhook_ms is not None:
        world.tell(b.webhook(at_ms=end_ms + webhook_ms, response_id=rid, webhook_id=f"wh_{name}"))
        world.work()
    world.tell(b.observed(
        end_ms + 1_000, "completed", response_id=rid, provider_created_at_ms=accepted_ms, provider_ended_at_ms=end_ms,
        terms=Terms(service_tier="flex"),
    ))  # fmt: skip
    world.work()


def rows_of(world: World, since_ms: int = 0, until_ms: int = 1 << 50) -> LatencyRows:
    reading = LatencyReading(since_ms, until_ms)
    for topic in LOGS:
        for at, records in sorted(world.records.items()):
            if at[0] == topic:
                reading.take(records)
    return reading.done()


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    for number in range(30):
        lost = number % 10 == 0
        job(
            world, f"job-{number}", b.T0 + 200_000 * number, webhook_ms=None if lost else 500,
            control=number % 2 == 0, model="<b>m</b>" if number < 25 else "other",
        )  # fmt: skip
    job(world, "late", b.T0 + 200_000 * 30, webhook_ms=MISSED_AFTER_MS + 5_000)
    world.tell(b.submitted(b.T0 + 200_000 * 31, job_id="open", tenant="secret-tenant"))
    world.work()
    return world


@pytest.fixture(scope="module")
def summary(world: World) -> Summary:
    return summarize(rows_of(world))


def test_spans_are_measured_from_the_facts(summary: Summary) -> None:
    whole = summary.groups[0]
    found = {name: stage.p50.value for name, stage in whole.stages.items()}
    assert found == {
        "queue": 2_000, "create": 500, "run": RUN_MS, "webhook": 750, "detection": 1_250,
        "total": 2_000 + RUN_MS + 1_000,
    }  # fmt: skip
    assert (whole.stages["run"].ended, whole.stages["run"].open) == (31, 0)
    assert (whole.stages["total"].ended, whole.stages["total"].open) == (31, 1)


def test_lost_webhooks_are_counted_apart_for_the_control_group(summary: Summary) -> None:
    assert (summary.control.ends, summary.control.missed) == (15, 3)
    assert (summary.others.ends, summary.others.missed, summary.late) == (16, 1, 1)
    assert summary.control.share.low is not None
    assert summary.control.share.low < 0.2 < (summary.control.share.high or 0)


def test_groups_are_models_tiers_and_hours(summary: Summary) -> None:
    found = {(group.by, group.name): group.jobs for group in summary.groups}
    assert found["model", "<b>m</b>"] == 25
    assert found["tier", "flex"] == 31
    assert sum(jobs for (by, _), jobs in found.items() if by == "hour") == 32
    assert len([by for by, _ in found if by == "hour"]) >= 2


def test_a_fallback_runs_under_its_own_model() -> None:
    world, long = World(), "m" * 70
    for name, asked, ran in (("fell", "m", "n"), ("plain", "m", "m"), ("long", long, long[:64]), ("untold", "m", "")):
        world.tell(b.submitted(b.T0, job_id=name, model=asked))
        world.work()
        told = b.accepted(b.T0 + 1_000, job_id=name, response_id=f"resp_{name}", latency_class=(ran,) if ran else None)
        world.tell(told)
        world.work()
    found = {name.removeprefix("resp_"): run.model for name, run in rows_of(world).runs.items()}
    assert found == {"fell": "n", "plain": "m", "long": long, "untold": "m"}


def test_a_response_that_backstop_cancelled_is_censored_where_it_was_last_seen(world: World) -> None:
    cut = World()
    cut.tell(b.submitted(b.T0, job_id="a"))
    cut.work()
    cut.tell(b.accepted(b.T0 + 1_000, job_id="a", response_id="resp_a"))
    cut.work()
    cut.tell(b.cancel_requested(b.T0 + 9_000, job_id="a"))
    cut.work()
    run = rows_of(cut).runs["resp_a"]
    assert (run.run_ms, run.seen_ms) == (None, 8_000)


def test_an_empty_range_is_refused(world: World) -> None:
    with pytest.raises(ReportRangeError, match="no job was submitted in the range"):
        rows_of(world, since_ms=1 << 49)


def test_the_page_is_one_file_without_scripts_tenants_or_foreign_markup(world: World, summary: Summary) -> None:
    html = page(rows_of(world), summary)
    for never in ("<script", "http://", "https://", "secret-tenant", "<b>m</b>", "hello", "job-1", "resp_", "nan"):
        assert never not in html, never
    for wanted in ("&lt;b&gt;m&lt;/b&gt;", "prefers-color-scheme:dark", "What these figures show", "Not shown"):
        assert wanted in html, wanted
    assert html.count("<svg") == html.count("</svg>") == 4


def test_the_command_reports_a_bundle(world: World, tmp_path: Path) -> None:
    bundle, html = bundle_of(world, tmp_path / "a.bundle"), tmp_path / "report.html"
    asked = ["latency", "--since", "1", "--bundle", str(bundle)]
    found = CliRunner().invoke(app, [*asked, "--html", str(html), "-o", "json"])
    assert found.exit_code == 0, found.output
    told = orjson.loads(found.stdout)
    assert (told["jobs"], told["control"]["missed"], told["confidence"]) == (32, 3, 0.95)
    assert html.read_text().startswith("<!doctype html>")
    assert "Ends without a webhook within 30 s: 3 of 15" in CliRunner().invoke(app, asked).output
    assert CliRunner().invoke(app, ["latency", "--since", "1s", "--bundle", str(bundle)]).exit_code == 1
