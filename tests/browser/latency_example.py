"""The example of the latency report in `docs/`, from a real run with faults, and pictures of it and of the page's
curves of run times: `python -m tests.browser.latency_example`.

Half of the jobs may be hedged, and a fifth is in the control group. The pictures of the widths that are not kept in
`docs/` are left in the folder that it prints.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.browser.chromium import chromium, find_chromium
from tests.browser.conftest import Tab
from tests.browser.screenshots import BYTES_MAX, DOCS
from tests.browser.system import Running, running_with_keys
from tests.kafka.test_costs import backstop
from tests.support.waiting import wait_until

JOBS, PAIRS, SENDERS = 320, 40, 8
"""Four pairs run at one time, each for as long as its model takes."""

ENDED = 0.93
"""The share of the jobs that must have ended. Some are stuck, and stay open in the report."""
MODELS = ("gpt-5.2", "gpt-5.2", "gpt-5.2-mini", "o4-deep-research")
FAULTS = json.dumps({
    "base": "demo",
    "models": {
        "*": {}, "gpt-5.2-mini": {"run": {"kind": "lognormal", "median_s": 60, "sigma": 0.5}},
        "o4-deep-research": {"run": {"kind": "lognormal", "median_s": 240, "sigma": 0.6}},
    },
})  # fmt: skip
REPORT = DOCS / "latency-report.html"
WIDTHS = (1280, 390)


def fill(running: Running) -> None:
    def submit(number: int) -> None:
        running.submit(
            model=MODELS[number % len(MODELS)], text=f"Work on sample {number}.", job_id=f"sample-{number}",
            timeout_ms=600_000, hedge=number % 2 == 0,
        )  # fmt: skip

    with ThreadPoolExecutor(SENDERS) as senders:
        list(senders.map(submit, range(JOBS)))

    def most_ended() -> bool:
        ended, cursor = 0, ""
        while True:
            page = running.ask(f"/v1/jobs?limit=100{cursor}")
            ended += sum(job["terminal"] for job in page["data"])
            if not page.get("next_cursor"):
                return ended >= ENDED * JOBS
            cursor = f"&cursor={page['next_cursor']}"

    wait_until(most_ended, 240, "most jobs to end", poll_s=1.0)


def report(running: Running) -> None:
    system = running.system
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": system.bootstrap, "BACKSTOP_TOPIC_PREFIX": system.runtime.topic_prefix,
        "BACKSTOP_OPENAI_BASE_URL": f"{system.simulator_url}/v1", "OPENAI_API_KEY": system.api_key,
        "BACKSTOP_BLOB_DIR": str(system.runtime.blobs_path),
    }  # fmt: skip
    asked = ("report", "latency", "--since", "1h", "--html", str(REPORT), "--foreground", str(PAIRS), "--execute")
    cli: Any = running
    done = backstop(cli, "acme", *asked, check=False, environment=environment)
    print(done.stdout, done.stderr, file=sys.stderr)
    assert done.returncode == 0


@contextmanager
def seen_at(browser: Browser, width: int) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, device_scale_factor=1.0 if width > 500 else 2.0, color_scheme="light"
    )
    yield context.new_page()
    context.close()


def take(browser: Browser, running: Running, folder: Path) -> None:
    for width in WIDTHS:
        with seen_at(browser, width) as page:
            page.goto(REPORT.as_uri())
            keep(page, f"latency-report-{width}.png", folder)
        with seen_at(browser, width) as page:
            tab = Tab(page, running).sign_in(at="#/health")
            tab.locator(".plots table").first.wait_for()
            tab.wait_for_load_state("networkidle")
            keep(tab, f"page-health-{width}.png", folder)


def keep(page: Page, name: str, folder: Path) -> None:
    """Whole pages to look at; what is first seen of the wide ones, for `docs/`."""
    page.screenshot(path=folder / name, full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than its window"
    if str(WIDTHS[0]) in name:
        (DOCS / name.replace(f"-{WIDTHS[0]}", "")).write_bytes(data := page.screenshot())
        assert len(data) < BYTES_MAX


def main() -> int:
    path = find_chromium()
    if path is None:
        print("no Chromium on PATH", file=sys.stderr)
        return 2
    pictures = Path(tempfile.mkdtemp(prefix="backstop-pictures-"))
    control = {"BACKSTOP_POLL_CONTROL_SHARE": "0.2", "BACKSTOP_HEDGE_ENDS_MIN": "20", "BACKSTOP_HEDGE_SHARE": "0.1"}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_with_keys(
            Path(folder), os.environ.get("KAFKA_BOOTSTRAP_SERVERS", ""), FAULTS, settings=control
        ) as running,
    ):
        fill(running)
        report(running)
        with chromium(path) as browser:
            take(browser, running, pictures)
    print(pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
