"""The page against the whole system: what runs goes on without it, and shows itself without a reload."""

import os
import signal
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import WAIT_MS, Tab
from tests.browser.system import QUICK, SLOW, Running
from tests.support.waiting import wait_until

STAY = "window.stayed = true"
STAYED = "window.stayed === true"
REMEMBER = """
window.said = new Set();
new MutationObserver(() => {
  for (const sign of document.querySelectorAll('#live, [role="alert"]')) said.add(sign.textContent);
}).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
"""
"""A receiver may be back within a moment. The banner appears only if it takes longer."""
SAID = "[...window.said].join(' | ')"


def row(page: Page, job_id: str) -> str:
    return f'[data-job="{job_id}"]'


def submit(page: Page, model: str, text: str) -> str:
    page.get_by_label("Model").fill(model)
    page.get_by_label("Input").fill(text)
    page.get_by_role("button", name="Submit").click()
    link = page.get_by_role("link", name="Open it")
    link.wait_for()
    job_id = str(link.get_attribute("href")).rpartition("/")[2]
    page.locator(row(page, job_id)).wait_for()
    return job_id


def test_a_session_is_there_again_after_page_and_receiver_were_gone(
    running: Running, open_tab: Callable[..., Tab]
) -> None:
    first, watching = open_tab(), open_tab()
    page = first.sign_in(at="#/sessions/holiday")
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    slow = submit(page, SLOW, "A long story.")
    quick = submit(page, QUICK, "A short one.")
    jobs = watching.sign_in()
    jobs.evaluate(STAY)
    expect(jobs.locator("#live")).to_have_text("Live")
    jobs.evaluate(REMEMBER)
    first.check()
    page.context.close()

    pid = running.system.supervisor.pid("serve")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    # Not `wait_for_function`: its repeats evaluate text within the page, which the policy refuses.
    wait_until(lambda: "Reconnecting" in jobs.evaluate(SAID), WAIT_MS / 1000, "the page to notice", poll_s=0.1)
    wait_until(running.answers, 30, "another receiver")

    again = open_tab().sign_in(at="#/sessions/holiday")
    again.evaluate(STAY)
    expect(again.locator(row(again, quick)).get_by_text("Completed")).to_be_visible(timeout=WAIT_MS)
    expect(again.locator(row(again, quick)).get_by_text("Echo: A short one.")).to_be_visible()
    expect(again.locator(row(again, slow)).get_by_text("Running")).to_be_visible()
    shown = again.locator("[data-job] a.id").all_text_contents()
    assert shown == [slow, quick], "in the order they came"

    running.finish(slow)
    expect(again.locator(row(again, slow)).get_by_text("Echo: A long story.")).to_be_visible(timeout=2 * WAIT_MS)
    assert again.evaluate(STAYED)
    expect(jobs.locator("#live")).to_have_text("Live", timeout=WAIT_MS)
    expect(jobs.get_by_role("alert")).to_be_hidden()
    expect(jobs.locator(row(jobs, slow)).get_by_text("Completed")).to_be_visible()
    assert jobs.evaluate(STAYED)


def test_a_job_appears_and_ends_in_the_list_without_a_reload(running: Running, tab: Tab) -> None:
    page = tab.sign_in(at="#/jobs?tag=watched")
    expect(page.get_by_text("No job matches these filters")).to_be_visible()
    expect(page.locator("#live")).to_have_text("Live")
    page.evaluate(STAY)
    other = running.submit(tags=["ignored"])
    job_id = running.submit(tags=["watched"])
    expect(page.locator(row(page, job_id)).get_by_text("Completed")).to_be_visible()
    assert page.locator(row(page, other)).count() == 0
    assert page.evaluate(STAYED)
    assert any("/v1/events?ticket=bst_" in url for url in tab.urls)


def test_a_running_job_is_followed_cancelled_and_shown_as_it_ended(running: Running, tab: Tab) -> None:
    job_id = running.submit(SLOW, metadata={"sim_fault": "run_stuck_in_progress"})
    page = tab.sign_in(at=f"#/jobs/{job_id}")
    expect(page.locator(".status")).to_have_text("Running")
    expect(page.locator(".waits")).to_contain_text("a webhook")
    expect(page.locator(".timeline .bar.ran")).to_be_visible()
    page.get_by_role("button", name="Cancel job").click()
    page.get_by_role("button", name="are you sure").click()
    expect(page.locator(".status")).to_have_text("Cancelled")
    expect(page.get_by_role("button", name="Cancel job")).to_have_count(0)
    page.get_by_text("All facts, as a table").click()
    expect(page.locator(".facts tbody")).to_contain_text("cancel requested over http")
    expect(page.locator(".facts tbody")).to_contain_text("result published: cancelled")


def test_the_lanes_tell_each_attempt_and_each_mark_can_be_read(running: Running, tab: Tab) -> None:
    job_id = running.submit(metadata={"sim_fault": "create_503_overloaded*1"}, retries_max=2)
    assert running.ended(job_id)["attempts"] == 2
    page = tab.sign_in(at=f"#/jobs/{job_id}")
    names = page.locator(".timeline .lane-name")
    expect(names).to_have_text(["Job", "Attempt 1", "Attempt 2", "Webhook", "Poll"])
    marks = page.locator(".timeline .mark")
    said = [str(mark.get_attribute("aria-label")) for mark in marks.all()]
    for wanted in ("submitted over http", "attempt 1 refused", "attempt 2 accepted", "result published: completed"):
        assert any(wanted in text for text in said), (wanted, said)
    marks.first.focus()
    expect(page.locator(".note")).to_contain_text("submitted over http")
    facts = running.ask(f"/v1/jobs/{job_id}/timeline")["entries"]
    assert marks.count() == page.locator(".facts tbody tr").count() == len(facts)


def test_older_jobs_come_by_pages_and_filters_stand_in_the_address(running: Running, tab: Tab) -> None:
    made = [running.submit(session_id="many") for _ in range(53)]
    page = tab.sign_in(at="#/jobs?session=many")
    rows = page.locator("li.row")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show older jobs").click()
    expect(rows).to_have_count(53)
    assert page.locator("li.row .id").all_text_contents() == made[::-1]
    page.get_by_label("status").select_option("cancelled")
    expect(page).to_have_url(f"{running.url}#/jobs?session=many&status=cancelled")
    expect(page.get_by_text("No job matches these filters")).to_be_visible()


def test_another_tenant_sees_nothing_of_it(running: Running, tab: Tab) -> None:
    job_id = running.submit(session_id="secret")
    page = tab.sign_in("globex")
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    tab.go(f"#/jobs/{job_id}")
    expect(page.locator("main").get_by_text("There is no such job")).to_be_visible()
    tab.go("#/sessions/secret")
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    tab.go("#/dead-letters?state=all")
    expect(page.get_by_text("No record was ever set aside")).to_be_visible()
    tab.go("#/health")
    expect(page.get_by_text("No job ended in this time")).to_be_visible()


def test_a_wrong_key_is_said_and_asked_for_again(running: Running, tab: Tab) -> None:
    page = tab.page
    page.goto(running.url)
    page.get_by_label("API key").fill("bsk_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("This key is not valid")).to_be_visible()
    page.get_by_label("API key").fill(running.keys["acme"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_refusal_is_said_in_its_own_sentence(tab: Tab) -> None:
    page = tab.sign_in("globex", at=f"#/jobs?model={'m' * 201}")
    expect(page.get_by_role("alert")).to_contain_text("at most 200 characters")
    expect(page.get_by_text("New job")).to_have_count(0)  # a key that may not submit is offered no form
