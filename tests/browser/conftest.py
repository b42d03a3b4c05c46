"""One system for all tests of the page, one browser a module, and one tab a test.

The tab watches for what must never happen: dialogs, errors, and violations of the content security policy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page

from backstop.dev.broker import Owned
from tests.browser.chromium import chromium, find_chromium
from tests.browser.system import Running, running_with_keys

HERE = Path(__file__).parent
WAIT_MS = 20_000
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kafka)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="package")
def chromium_path() -> str:
    path = find_chromium()
    if path is None:
        pytest.skip("THE WEB PAGE IS NOT TESTED: no Chromium on PATH (Debian: apt-get install chromium)")
    return path


@pytest.fixture(scope="package")
def running(chromium_path: str, broker: Owned, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_with_keys(tmp_path_factory.mktemp("system"), broker.bootstrap, webhooks=True) as system:
        yield system


@pytest.fixture(scope="module")
def browser(running: Running, chromium_path: str) -> Iterator[Browser]:
    with chromium(chromium_path) as opened:
        yield opened


@dataclass
class Tab:
    """A tab of its own, signed in, and what it must not have done."""

    page: Page
    running: Running
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def sign_in(self, tenant: str = "acme", at: str = "#/jobs") -> Page:
        self.page.goto(self.running.url + at)
        self.page.get_by_label("API key").fill(self.running.keys[tenant])
        self.page.get_by_role("button", name="Sign in").click()
        self.page.locator("#tenant", has_text=tenant).wait_for()
        return self.page

    def go(self, at: str) -> Page:
        """Another view, without a reload."""
        self.page.evaluate("at => { location.hash = at }", at)
        return self.page

    def check(self) -> None:
        assert self.dialogs == []
        assert self.errors == []
        assert [url for url in self.urls if "bsk_" in url] == [], "no key ever stands in an address"
        assert self.page.evaluate("window.violations") == []


@pytest.fixture
def open_tab(browser: Browser, running: Running) -> Iterator[Callable[..., Tab]]:
    """Makes tabs; each is checked, and closed, at the end of the test."""
    tabs: list[Tab] = []

    def make(**options: Any) -> Tab:
        context = browser.new_context(**options)
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(WATCH)
        page = context.new_page()
        tab = Tab(page, running)
        tabs.append(tab)

        def refuse(dialog: Dialog) -> None:
            tab.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", refuse)
        page.on("pageerror", lambda error: tab.errors.append(str(error)))
        page.on("request", lambda request: tab.urls.append(request.url))
        return tab

    yield make
    for tab in tabs:
        if not tab.page.is_closed():
            tab.check()
            tab.page.context.close()


@pytest.fixture
def tab(open_tab: Callable[..., Tab]) -> Tab:
    return open_tab()
