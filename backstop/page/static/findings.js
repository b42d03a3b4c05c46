// What needs attention, in words: a card for each finding of /v1/attention.
import { h } from "./dom.js";
import { badge, capital, count, number, share } from "./words.js";

const FINDINGS = {
  broker_away: (found) => ["The broker does not answer", `${found.because}.`],
  topics_missing: (found) => [`${count(found.count, "topic is", "topics are")} missing`, `${capital(found.because)}.`],
  workers_missing: (found) => [`${count(found.count, "partition has", "partitions have")} no worker`,
    `${capital(found.because)}.`],
  workers_behind: (found) => [`${count(found.count, "partition does", "partitions do")} not move`,
    `${capital(found.because)}.`],
  retention_near: (found) => [`${count(found.count, "log is", "logs are")} near the end of retention`,
    `${capital(found.because)}.`],
  blob_stores_differ: (found) => [`${count(found.count, "other blob store is", "other blob stores are")} in use`,
    `${found.because}.`],
  provider_refuses: (found) => [
    `${count(found.count, "job waits", "jobs wait")} for the provider's account to be fixed`,
    `${found.because}. They continue by themselves once it is.`],
  provider_unavailable: (found) => [`${count(found.count, "job waits", "jobs wait")} for the provider`,
    `${found.because}. They continue by themselves once it is available.`],
  jobs_failing: (found) => [`${share(found.count, found.of)} of jobs failed in the last hour`, `${found.because}.`],
  runs_slow: (found) => [`${found.count} of ${count(found.of, "run")} take longer than usual`,
    `${capital(found.because)}.`],
  tenant_floods: (found) => ["One tenant floods the queue", `${capital(found.because)}.`],
  process_in_trouble: (found) => [`${count(found.count, "process complains", "processes complain")}`,
    `${capital(found.because)}.`],
  creates_paused: (found) => [`${count(found.count, "job waits", "jobs wait")} as an operator paused creates`,
    `${found.because}. They continue when it is resumed.`],
  jobs_overdue: (found) => [`${count(found.count, "job is", "jobs are")} past the deadline`,
    "A worker is down, or too slow."],
  jobs_without_next_action: (found) => [`${count(found.count, "job has", "jobs have")} no next action`,
    "They will not continue by themselves."],
  jobs_finishing_too_long: (found) => [`${count(found.count, "job")} ended without a published result`,
    "The worker of that partition publishes it."],
  dead_letters: (found) => [`${count(found.count, "dead letter")} in the last hour`,
    `Records that could not be processed: ${found.because}.`],
  webhooks_missed: (found) => [found.because ? "No webhooks arrive"
    : `${share(found.count, found.of)} of webhooks did not arrive`,
    `${found.because ? `${capital(found.because)}. ` : ""}Polls find these ends: later, but none is lost.`],
  keys_expire_soon: (found) => [`${count(found.count, "key expires", "keys expire")} soon`,
    `${capital(found.because)}.`],
  budget_nearly_spent: (found) => [`${count(found.count, "budget is", "budgets are")} nearly or wholly spent`,
    `${found.because}. Jobs go on.`],
};

/** Findings that `/v1/status` tells as sentences, too. */
export const SYSTEM = ["broker_away", "topics_missing", "workers_missing", "workers_behind", "retention_near",
  "process_in_trouble"];

/** A card for each finding of `/v1/attention`, or a calm line. */
export function findingCards(seen) {
  const cards = seen.findings.map((found) => {
    const [title, meaning] = (FINDINGS[found.code] ?? (() => [`${found.code}: ${found.count}`, ""]))(found);
    return h("li", { class: "finding", "data-finding": found.code }, h("strong", {}, title), h("span", {}, meaning),
      h("span", { class: "links" }, leads(found)));
  });
  return cards.length ? h("ul", { class: "findings" }, cards)
    : h("p", { class: "calm" }, badge("completed").firstChild, "Nothing needs attention");
}

function leads(found) {
  if (found.code === "dead_letters") return h("a", { href: "#/dead-letters" }, "Show them");
  if (found.code === "webhooks_missed") return h("a", { href: "#/health" }, "See when");
  if (SYSTEM.includes(found.code)) return h("a", { href: "#/system" }, "See the system");
  if (found.code === "budget_nearly_spent") return h("a", { href: "#/costs?by=day" }, "See the costs");
  return (found.job_ids ?? []).slice(0, 3).map((id) => h("a",
    { class: "id", href: `#/jobs/${encodeURIComponent(id)}` }, id));
}

/** The findings, and how many jobs are open by status. */
export function findings(seen) {
  const open = Object.entries(seen.open).map(([status, n]) => h("a",
    { class: "tally", href: `#/jobs?status=${status}` }, badge(status), h("b", {}, number(n))));
  return [findingCards(seen),
    h("div", { class: "tallies" }, open.length ? open : h("span", { class: "hint" }, "No open jobs"))];
}
