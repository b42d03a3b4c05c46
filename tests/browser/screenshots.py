"""The pictures in `docs/`, from a real run with faults: `python -m tests.browser.screenshots`."""

import sys
import tempfile
from pathlib import Path
from random import Random

from playwright.sync_api import Browser, Page

from tests.browser.chromium import chromium, find_chromium
from tests.browser.conftest import Tab
from tests.browser.system import Running, running_with_keys
from tests.support.waiting import wait_until

DOCS = Path(__file__).parents[2] / "docs"
FAULTS = """{"base": "demo",
  "rates": {"webhook_lost": 0.25, "run_failed": 0.1, "create_503_overloaded": 0.1, "create_accept_close": 0.05},
  "models": {"*": {}, "o4-deep-research": {"run": {"kind": "lognormal", "median_s": 400, "sigma": 0.6}}}}"""
KINDS = (
    ("invoice", "gpt-5.2-mini", "billing", ("finance", "nightly")),
    ("summary", "gpt-5.2", "weekly-report", ("reports",)),
    ("contract", "gpt-5.2", "legal-review", ("legal", "urgent")),
    ("research", "o4-deep-research", "market-study", ("research",)),
)
JOBS = 60
BYTES_MAX = 200_000


def fill(running: Running) -> str:
    """Jobs of some kinds, most of them ended; which one went through the most."""
    chance = Random(4)
    for number in range(JOBS):
        name, model, session, tags = KINDS[chance.choice((0, 0, 1, 1, 2, 2, 3))]
        running.submit(
            model=model, text=f"Work on {name} {number}.", job_id=f"{name}-{2041 + number}",
            session_id=f"{session}-{number % 3 + 1}", tags=list(tags[: number % 2 + 1]), timeout_ms=600_000,
        )  # fmt: skip
    running.put("requests.acme", b"invoice-2101", b'{"type": "submit", "job_id": "invoice-2101", "request": {"model"')

    def most_ended() -> str | None:
        jobs = running.ask(f"/v1/jobs?limit={JOBS + 1}")["data"]
        if sum(job["terminal"] for job in jobs) < JOBS - 12:
            return None
        completed = [job for job in jobs if job["status"] == "completed"]
        return str(max(completed, key=lambda job: (job["attempts"], job["finished_at_ms"]))["job_id"])

    return wait_until(most_ended, 90, "most jobs to end", poll_s=0.5)


def take(browser: Browser, running: Running, job_id: str) -> None:
    context = browser.new_context(
        viewport={"width": 1200, "height": 720}, device_scale_factor=1.25, color_scheme="light"
    )
    page = Tab(context.new_page(), running).sign_in(at="#/jobs")
    page.locator("li.row").nth(20).wait_for()
    page.locator("[data-finding], .calm").first.wait_for()
    page.mouse.move(0, 0)
    shoot(page, "page-jobs.png")
    phone = browser.new_context(
        viewport={"width": 390, "height": 844},
        device_scale_factor=2,
        color_scheme="dark",
        is_mobile=True,
        has_touch=True,
    )
    page = Tab(phone.new_page(), running).sign_in(at=f"#/jobs/{job_id}")
    page.locator(".timeline .mark[aria-label*='ended: completed']").focus()
    shoot(page, "page-job.png")


def shoot(page: Page, name: str) -> None:
    (DOCS / name).write_bytes(data := page.screenshot())
    print(f"docs/{name}: {len(data):,} bytes")
    assert len(data) < BYTES_MAX


def main() -> int:
    path = find_chromium()
    if path is None:
        print("no Chromium on PATH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, running_with_keys(Path(folder), faults=FAULTS) as running:
        job_id = fill(running)
        with chromium(path) as browser:
            take(browser, running, job_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
