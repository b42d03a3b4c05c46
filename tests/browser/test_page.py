"""The page: untrusted content stays text, and the page works by keyboard, on a phone and in the dark, with contrast."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Tab
from tests.browser.system import SLOW, Running
from tests.support.waiting import wait_until

CANARY = "<img src=x onerror=alert(1)><script>alert(2)</script>"
LONG = "a-very-long-name-" * 7
CONTRAST_MIN = 4.5


@pytest.fixture(scope="module")
def filled(running: Running) -> dict[str, str]:
    """Jobs for every page, with canaries in each field that a client sets, and names of the greatest length."""
    evil = running.submit(model=CANARY, text=CANARY, tags=[CANARY], session_id="s")
    long = running.submit(job_id=LONG[:100], session_id=LONG, tags=[LONG[:64], "short"])
    failed = running.submit(metadata={"sim_fault": "run_failed_usage"}, retries_max=0)
    refused = running.submit(metadata={"sim_fault": "create_400"})
    running.ask("/v1/webhook_endpoints", {"url": f"https://hooks.example.com/{LONG}", "name": CANARY[:40]})
    running.ask("/v1/webhook_endpoints", {"url": f"https://hooks.example.com/{LONG}"})
    running.put("requests.acme", b"plain", f"{{{CANARY}".encode())
    running.put("requests.acme", CANARY.encode(), json.dumps({"type": CANARY, CANARY: CANARY}).encode())
    for job_id in (evil, long, failed, refused):
        running.ended(job_id)
    wait_until(lambda: len(running.ask("/v1/dead-letters")["data"]) == 2, 20, "both dead letters", poll_s=0.1)
    return {"evil": evil, "long": long, "failed": failed, "refused": refused}


def pages(filled: dict[str, str]) -> dict[str, str]:
    """Each page, and what it shows once it is there."""
    return {
        "#/jobs": "li.row",
        "#/sessions/s": "li.turn pre",
        f"#/sessions/{LONG}": "li.turn pre",
        **{f"#/jobs/{job_id}": ".facts tbody tr" for job_id in filled.values()},
        "#/dead-letters": "li.letter",
        "#/webhooks": "[data-endpoint]",
        "#/costs": ".costs tbody tr",
        "#/costs?by=tag&days=7": ".costs tbody tr",
        "#/health": ".plots table",
        "#/system": ".system tbody tr",
        f"#/search?id={LONG[:20]}": ".rows .row",
    }


def visit(tab: Tab, filled: dict[str, str]) -> Any:
    for at, shown in pages(filled).items():
        tab.go(at)
        tab.page.locator(shown).first.wait_for(state="attached")
        tab.page.evaluate("for (const fold of document.querySelectorAll('main details')) fold.open = true")
        yield at


def test_untrusted_content_is_text_everywhere(tab: Tab, filled: dict[str, str]) -> None:
    page = tab.sign_in()
    for at in visit(tab, filled):
        assert page.locator("main img, main script, main iframe").count() == 0, at
    for at, where in (
        ("#/jobs", f'[data-job="{filled["evil"]}"]'),
        (f"#/jobs/{filled['evil']}", ".output"),
        ("#/sessions/s", ".output"),
        ("#/dead-letters", "li.letter:has-text('unknown type') .output"),
        ("#/health", ".plots table"),
        ("#/costs", ".costs:not(.budgets)"),
        ("#/costs?by=tag", ".costs:not(.budgets)"),
    ):
        tab.go(at)
        expect(page.locator(where).first).to_contain_text("<img src=x onerror=alert(1)>", use_inner_text=False)
    for at in (f"#/sessions/{CANARY}", f"#/jobs/{CANARY}", f"#/jobs?tag={CANARY}", f"#/{CANARY}", "#/jobs/%E0%A4%A"):
        tab.go(at)
        page.locator("main .empty, main .hint").first.wait_for()
        assert page.locator("main img, main script").count() == 0, at


def test_costs_are_told_by_group_and_what_is_not_known_is_named(tab: Tab, filled: dict[str, str]) -> None:
    page = tab.sign_in()
    tab.go(f"#/jobs/{filled['failed']}")
    expect(page.locator(".summary")).to_contain_text("unknown")  # Its model has no price.
    tab.go("#/costs")
    expect(page.locator(".costs tbody tr").first).to_be_visible()
    expect(page.locator(".tiles")).to_contain_text("without a price")
    expect(page.locator(".budgets tbody tr")).to_contain_text("$500.00")
    expect(page.locator(".budgets tbody tr")).to_contain_text("stops creates when used up")
    page.get_by_label("Groups").select_option("outcome")
    expect(page.locator(".costs th[scope=row]", has_text="failed")).to_be_visible()
    page.get_by_label("Period").select_option("1")
    expect(page.locator(".hint", has_text="backstop costs --by outcome --csv")).to_be_visible()


def test_refusals_and_costs_are_shown_over_time_and_unknown_costs_are_named(tab: Tab, running: Running) -> None:
    refused = [
        running.submit(model="gpt-5.2", metadata={"sim_fault": f"{fault}*1"})
        for fault in ("create_429_requests", "create_503_overloaded")
    ]
    running.submit(SLOW)
    for job_id in (*refused, running.submit()):  # The model of the last one has no price.
        running.ended(job_id)

    def stats() -> Any:
        course = running.ask("/v1/stats")["course"]
        told = [each["spent"]["unmeasured"] for each in course if each["spent"]["unmeasured"]]
        return course if told else None

    course = wait_until(stats, 20, "a running attempt in the course", poll_s=0.1)
    assert sum(each["refused"]["limited"] for each in course) > 0
    assert sum(each["refused"]["overloaded"] for each in course) > 0
    page = tab.sign_in(at="#/health")
    expect(page.locator(".plot h2", has_text="Refused creates")).to_be_visible()
    cost = page.locator(".plot", has=page.get_by_role("heading", name="Cost", exact=True))
    expect(cost.locator(".legend")).to_contain_text(re.compile(r"\d+ attempts? of unknown cost, not in the line"))
    expect(cost.locator("rect.doubt title").first).to_have_text(re.compile(r"^\d+ attempts? of unknown cost$"))
    assert cost.locator("path.line").get_attribute("d") != ""
    table = page.locator("details", has_text="The course as a table")
    table.locator("summary").click()
    heads = table.locator("th[scope=col]").all_text_contents()
    rows = [row.locator("th, td").all_text_contents() for row in table.locator("tbody tr").all()]
    shown = {head: [row[at] for row in rows] for at, head in enumerate(heads)}
    for head, kind in (("Rate limit (429)", "limited"), ("Overloaded", "overloaded"), ("Other refusals", "other")):
        assert sum(map(int, shown[head])) == sum(each["refused"][kind] for each in course), head
    for told, doubt in zip(shown["Cost"], shown["Of unknown cost"], strict=True):
        assert told.startswith("$") or (told, doubt != "0") == ("unknown", True)
        assert told != "$0.00" or doubt == "0", "what is not known is not shown as 0"
    assert any(told.startswith("$0.0") for told in shown["Cost"] if told != "$0.00")


def test_dead_letters_are_decided_by_a_plan_and_a_reason(tab: Tab, filled: dict[str, str], running: Running) -> None:
    assert filled
    page = tab.sign_in(at="#/dead-letters")
    letter = page.locator("li.letter", has_text="not json").first
    letter_id = letter.get_attribute("data-letter")
    letter.locator("summary").click()
    letter.get_by_role("button", name="Put back").click()
    expect(letter.get_by_role("status")).to_contain_text("the record is put back on its topic, unchanged")
    expect(letter.get_by_role("status")).to_contain_text("It can be read now: no: not_json")
    letter.get_by_role("button", name="Leave it").click()
    letter.get_by_role("button", name="Drop").click()
    letter.get_by_role("button", name="Drop now").click()
    assert decision_of(running, letter_id) is None, "without a reason nothing is done"
    letter.get_by_label("Reason").fill("A test wrote it.")
    letter.get_by_role("button", name="Drop now").click()
    expect(letter.get_by_role("status")).to_have_text("Dropped: A test wrote it.")
    wait_until(lambda: decision_of(running, letter_id) == "dropped", 20, "the decision in the read model", poll_s=0.1)
    letter.get_by_role("status").wait_for()

    again = running.ask(
        "/v1/dead-letters/decide", {"ids": [letter_id], "decision": "drop", "execute": True, "why": "x"}
    )
    assert (again["executed"], again["data"]) == (False, [])
    assert again["left_out"] == [{"id": letter_id, "because": "it was dropped already"}]
    other = page.locator("li.letter", has_text="unknown type").first
    other_id = other.get_attribute("data-letter")
    other.locator("summary").click()
    other.get_by_role("button", name="Put back").click()
    other.get_by_label("Reason").fill("Once more.")
    other.get_by_role("button", name="Put back now").click()
    expect(other.get_by_role("status")).to_have_text("Put back on its topic, unchanged: Once more.")
    wait_until(lambda: decision_of(running, other_id) == "retried", 20, "the other decision", poll_s=0.1)
    wait_until(
        lambda: len(running.ask("/v1/dead-letters?reason=unknown_type")["data"]) == 1, 20, "a dead letter again",
        poll_s=0.1,
    )  # fmt: skip


def decision_of(running: Running, letter_id: str | None) -> str | None:
    letters = running.ask("/v1/dead-letters?state=all")["data"]
    return next((letter.get("resolution") for letter in letters if letter["id"] == letter_id), None)


def test_the_policy_stops_markup_that_gets_in_all_the_same(tab: Tab) -> None:
    page = tab.sign_in()
    assert (
        page.evaluate(
            "(() => { try { document.body.innerHTML = '<b>'; return 'taken' } catch { return 'refused' } })()"
        )
        == "refused"
    )
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.com/x.png'}))"
    )
    wait_until(lambda: len(page.evaluate("window.violations")) >= 2, 5, "violations to be reported")
    page.evaluate("window.violations = []")  # these were meant


def test_headers_allow_nothing_else(running: Running, tab: Tab) -> None:
    answer = tab.page.goto(running.url)
    assert answer is not None
    headers = answer.headers
    assert headers["content-security-policy"].startswith("default-src 'self'; base-uri 'none'; form-action 'none'")
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert {url.split("/")[2] for url in tab.urls} == {running.system.url.split("/")[2]}, "nothing from elsewhere"
    again = tab.page.request.get(
        f"{running.url}/app.js",
        headers={"If-None-Match": tab.page.request.get(f"{running.url}/app.js").headers["etag"]},
    )
    assert again.status == 304


def test_everything_goes_by_keyboard(tab: Tab, filled: dict[str, str]) -> None:
    page = tab.sign_in()
    page.locator("li.row").first.wait_for()
    focused = "document.activeElement"
    page.keyboard.press("/")
    assert page.evaluate(f"{focused}.name") == "model"
    page.keyboard.type("j/k")
    assert page.evaluate(f"{focused}.value") == "j/k", "in a field, letters are letters"
    page.locator(":focus").fill("")
    page.keyboard.press("Escape")
    rows = page.locator("li.row .id").all_text_contents()
    for key, wanted in (("j", rows[0]), ("j", rows[1]), ("k", rows[0]), ("k", rows[0]), ("j", rows[1])):
        page.keyboard.press(key)
        assert page.evaluate(f"{focused}.textContent") == wanted
    assert page.evaluate(f"getComputedStyle({focused}.closest('.row')).outlineStyle") == "solid", "and it can be seen"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(rows[1])
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    tab.go("#/dead-letters")
    page.locator("li.letter").first.wait_for()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("li.letter details").first).to_have_attribute("open", "")


@pytest.mark.parametrize("width", [360, pytest.param(390, marks=pytest.mark.long)])
def test_nothing_is_wider_than_a_phone(open_tab: Callable[..., Tab], filled: dict[str, str], width: int) -> None:
    tab = open_tab(viewport={"width": width, "height": 740}, is_mobile=True, has_touch=True)
    page = tab.sign_in()
    for at in visit(tab, filled):
        wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide == [width, width], at


CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [0, 1, 2].map((n) => top[n] * top[3] + under[n] * (1 - top[3]));
  const ground = (node) => {
    if (!node) return rgba(getComputedStyle(document.documentElement).backgroundColor).slice(0, 3);
    const own = rgba(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, ground(node.parentElement));
  };
  const light = (color) => color.map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest("title, noscript, option, .skip")) continue;
    const style = getComputedStyle(node);
    const under = ground(node);
    const ink = over(rgba(node.ownerSVGElement ? style.fill : style.color), under);
    const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
    const text = walker.currentNode.data.trim().slice(0, 40);
    found.push([(a + 0.05) / (b + 0.05), text, node.className.baseVal ?? node.className]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_all_text_can_be_read(open_tab: Callable[..., Tab], filled: dict[str, str], scheme: Any) -> None:
    page = (tab := open_tab(color_scheme=scheme)).sign_in()
    assert brightness(page) == scheme
    seen = 0
    for at in visit(tab, filled):
        contrasts = page.evaluate(CONTRASTS)
        seen += len(contrasts)
        assert [one for one in contrasts if one[0] < CONTRAST_MIN] == [], at
    assert seen > 300


def brightness(page: Page) -> str:
    red = int(page.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0]"))
    return "light" if red > 127 else "dark"


def test_the_theme_follows_the_system_until_it_is_chosen(open_tab: Callable[..., Tab]) -> None:
    page = open_tab(color_scheme="dark").sign_in()
    theme = page.locator("#theme")
    seen = []
    for name in ("auto", "light", "dark"):
        expect(theme).to_have_attribute("aria-label", f"Theme: {name}")
        seen.append(brightness(page))
        theme.click()
    assert seen == ["dark", "light", "dark"]
    theme.click()
    page.reload()
    expect(theme).to_have_attribute("aria-label", "Theme: light")
    assert brightness(page) == "light"


def test_nothing_moves_for_a_user_that_prefers_reduced_motion(open_tab: Callable[..., Tab], running: Running) -> None:
    running.submit("slow-model", tags=["moves"])
    for motion, wanted in (("reduce", "none"), ("no-preference", "breathe")):
        page = open_tab(reduced_motion=motion).sign_in(at="#/jobs?tag=moves")
        icon = page.locator("li.row .status[data-status=running] svg")
        expect(icon).to_have_css("animation-name", wanted)
