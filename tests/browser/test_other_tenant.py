"""The page while another tenant is shown: it reads again instead of following. Against canned answers, no system."""

import json
from collections.abc import Iterator
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.chromium import chromium

URL = "http://backstop.example"
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
CALLER = {"tenant": "acme", "scopes": ["read", "admin"], "development": False}
NONE = {"object": "list", "data": [], "findings": [], "waiting": [], "ended": [], "at_ms": 0}


def job(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "job_id": f"job-{number:03}", "status": "completed", "version": 1, "terminal": True, "tags": [], "attempts": 1,
        "model": "m", "submitted_at_ms": 1_000 + number, "updated_at_ms": 2_000, "finished_at_ms": 2_000, **changes,
    }  # fmt: skip


class Answers:
    """Pages of 50 jobs, one job for each address of one, and who asked for what."""

    def __init__(self, page: Page) -> None:
        self.asked: list[tuple[str, str | None]] = []
        page.route(f"{URL}/**", self.answer)

    def answer(self, route: Route) -> None:
        address = urlsplit(route.request.url)
        if address.path.startswith("/ui"):
            name = address.path.removeprefix("/ui").strip("/") or "index.html"
            body = resources.files("backstop.page").joinpath("static", name).read_bytes()
            return route.fulfill(body=body, content_type=KINDS[name.rpartition(".")[2]])
        self.asked.append((address.path, route.request.headers.get("backstop-tenant")))
        return route.fulfill(body=json.dumps(self.document(address.path, parse_qs(address.query))))

    def document(self, path: str, query: dict[str, list[str]]) -> Any:
        if path == "/v1/caller":
            return CALLER
        if path == "/v1/jobs":
            below = int(query.get("cursor", ["150"])[0])
            older = {"next_cursor": str(below - 50)} if below > 50 else {}
            return {"data": [job(number) for number in range(below - 1, below - 51, -1)], **older}
        if path.startswith("/v1/jobs/"):
            return {"entries": []} if path.endswith("/timeline") else job(1)
        return NONE

    def count(self, path: str) -> int:
        return sum(1 for asked, tenant in self.asked if asked == path and tenant == "globex")


@pytest.fixture(scope="module")
def lone_browser(chromium_path: str) -> Iterator[Browser]:
    with chromium(chromium_path) as opened:
        yield opened


@pytest.fixture
def page(lone_browser: Browser) -> Iterator[Page]:
    context = lone_browser.new_context()
    opened = context.new_page()
    opened.clock.install()
    yield opened
    context.close()


def show(page: Page, at: str, tenant: str = "globex") -> Answers:
    answers = Answers(page)
    page.goto(f"{URL}/ui{at}")
    field = page.get_by_label("Tenant")
    field.fill(tenant)
    field.press("Tab")
    return answers


def test_older_jobs_go_on_where_they_were_while_the_newest_are_read_again(page: Page) -> None:
    answers = show(page, "#/jobs")
    rows, older = page.locator("li.row"), page.get_by_role("button", name="Show older jobs")
    expect(rows).to_have_count(50)
    older.click()
    expect(rows).to_have_count(100)
    reads = answers.count("/v1/jobs")
    with page.expect_response(lambda answer: answer.url.startswith(f"{URL}/v1/jobs?")):
        page.clock.run_for(5_000)
    assert answers.count("/v1/jobs") == reads + 1
    older.click()
    expect(rows).to_have_count(150)
    expect(older).to_be_hidden()


def test_a_job_that_has_ended_is_not_read_again(page: Page) -> None:
    answers = show(page, "#/jobs/job-001")
    expect(page.get_by_role("heading", name="Result")).to_be_visible()
    reads = answers.count("/v1/jobs/job-001")
    page.clock.run_for(60_000)
    page.evaluate("fetch('/v1/last')")
    assert answers.count("/v1/jobs/job-001") == reads


def test_a_name_that_no_tenant_has_changes_nothing(page: Page) -> None:
    answers = show(page, "#/jobs", tenant="Glöbex ☃")
    expect(page.locator("input:invalid")).to_have_value("Glöbex ☃")
    expect(page.locator("li.row")).to_have_count(50)
    assert {tenant for _, tenant in answers.asked} == {None}
    expect(page.locator("#banner")).to_be_hidden()
