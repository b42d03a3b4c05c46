"""The pictures in `docs/`, from a real run with faults: `python -m tests.browser.screenshots`.

With a folder (`python -m tests.browser.screenshots FOLDER`) each page in each width and theme, to be looked at.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from playwright.sync_api import Browser, Page

from tests.browser.chromium import chromium, find_chromium
from tests.browser.conftest import Tab
from tests.browser.system import Running, running_with_keys
from tests.support.waiting import wait_until

DOCS = Path(__file__).parents[2] / "docs"
FAULTS = """{"base": "demo",
  "rates": {"webhook_lost": 0.25, "run_failed": 0.1, "create_503_overloaded": 0.1, "create_accept_close": 0.05,
    "create_429_requests": 0.1},
  "models": {"*": {}, "o4-deep-research": {"run": {"kind": "lognormal", "median_s": 400, "sigma": 0.6}}}}"""
KINDS = (
    ("invoice", "gpt-5.2-mini", "billing", ("finance", "nightly")),
    ("summary", "gpt-5.2", "weekly-report", ("reports",)),
    ("contract", "gpt-5.2", "legal-review", ("legal", "urgent")),
    ("research", "o4-deep-research", "market-study", ("research",)),
)
JOBS = 60
BYTES_MAX = 250_000
HOOKS = (("billing", "https://hooks.example.com/backstop"), ("", "https://reports.example.net/a/rather/long/path/in"))

Width = Literal[1280, 390]
Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Scene:
    """A page, and the width and theme in which the documentation shows it."""

    name: str
    address: str
    shown: str
    """What is there once the page is."""
    width: Width
    theme: Theme


def scenes(job_id: str) -> tuple[Scene, ...]:
    return (
        Scene("jobs", "#/jobs", "li.row >> nth=20", 1280, "light"),
        Scene("job", f"#/jobs/{job_id}", ".timeline .mark[aria-label*='ended: completed']", 390, "dark"),
        Scene("health", "#/health", ".plots .chart", 1280, "dark"),
        Scene("system", "#/system", ".system tbody tr", 1280, "light"),
        Scene("webhooks", "#/webhooks", "[data-endpoint]", 390, "light"),
        Scene("dead-letters", "#/dead-letters", "li.letter", 1280, "light"),
        Scene("costs", "#/costs", ".costs tbody tr", 390, "dark"),
    )


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
    running.put("requests.acme", b"invoice-2102", b'{"type": "submit_later", "job_id": "invoice-2102"}')
    for name, url in HOOKS:
        running.ask("/v1/webhook_endpoints", {"url": url, **({"name": name} if name else {})})

    def most_ended() -> str | None:
        jobs = running.ask(f"/v1/jobs?limit={JOBS + 1}")["data"]
        if sum(job["terminal"] for job in jobs) < JOBS - 12:
            return None
        completed = [job for job in jobs if job["status"] == "completed"]
        return str(max(completed, key=lambda job: (job["attempts"], job["finished_at_ms"]))["job_id"])

    return wait_until(most_ended, 90, "most jobs to end", poll_s=0.5)


def opened(browser: Browser, running: Running, scene: Scene, width: Width, theme: Theme) -> Page:
    phone = width < 720
    context = browser.new_context(
        viewport={"width": width, "height": 844 if phone else 760}, device_scale_factor=2 if phone else 1.25,
        color_scheme=theme, is_mobile=phone, has_touch=phone,
    )  # fmt: skip
    page = Tab(context.new_page(), running).sign_in(at=scene.address)
    page.locator(scene.shown).first.wait_for()
    if scene.name == "jobs":
        page.locator("[data-finding], .calm").first.wait_for()
    if scene.name == "job":
        page.locator(scene.shown).first.focus()
    if scene.name == "dead-letters":
        page.locator("li.letter summary").first.click()
    page.mouse.move(0, 0)
    return page


def take_all(browser: Browser, running: Running, job_id: str, folder: Path) -> None:
    """Each page whole, in both widths and both themes."""
    for scene in scenes(job_id):
        for width in (1280, 390):
            for theme in ("light", "dark"):
                page = opened(browser, running, scene, width, theme)
                (folder / f"{scene.name}-{width}-{theme}.png").write_bytes(page.screenshot(full_page=True, scale="css"))
                page.context.close()


def take(browser: Browser, running: Running, job_id: str) -> None:
    for scene in scenes(job_id):
        page = opened(browser, running, scene, scene.width, scene.theme)
        (DOCS / f"page-{scene.name}.png").write_bytes(data := page.screenshot())
        print(f"docs/page-{scene.name}.png: {len(data):,} bytes")
        assert len(data) < BYTES_MAX
        page.context.close()


def main(folders: list[str]) -> int:
    path = find_chromium()
    if path is None:
        print("no Chromium on PATH", file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory() as folder,
        running_with_keys(Path(folder), faults=FAULTS, webhooks=True) as running,
    ):
        job_id = fill(running)
        with chromium(path) as browser:
            for named in folders:
                take_all(browser, running, job_id, Path(named))
            if not folders:
                take(browser, running, job_id)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
