// A job's facts: a text for each, and the table of all.
import { h } from "./dom.js";
import { clock, count, span } from "./words.js";

// Kind of fact → lane, shape, tone, text. Other kinds are shown by their name, in the job's lane.
const of = (fact) => `attempt ${fact.attempt}`;
const because = (fact) => (fact.code ? ` (${fact.code})` : "");
const KINDS = {
  job_submitted: ["Job", "up", "go",
    (f) => `submitted over ${f.ingress}${f.retry_of ? `, to repeat ${f.retry_of}` : ""}`],
  response_adopted: ["Job", "up", "go", (f) => `${f.response_id} adopted over ${f.ingress}`],
  adoption_refused: ["Job", "cross", "bad", (f) => `${f.response_id} belongs to another job`],
  job_refused: ["Job", "cross", "bad", (f) => `refused: ${f.code}`],
  "jobs/timer_fired": ["Job", "tick", "still", () => "timer fired"],
  job_admitted: ["Job", "up", "go",
    (f) => `has its turn${f.waited_for && f.waited_for !== "turn" ? `, after a wait for ${f.waited_for}` : ""}`],
  job_found_too_late: ["Job", "cross", "bad", (f) => `too little time left: runs take ${span(f.needs_ms)} or more`],
  fallback_taken: ["Job", "up", "warn",
    (f) => `goes on with its fallback ${f.number}: creates were held for ${span(f.closed_ms)} (${f.code})`],
  cancel_requested: ["Job", "cross", "warn", (f) => `cancel requested over ${f.ingress}`],
  job_erased: ["Job", "tick", "warn", (f) => `erased by ${f.by}: ${f.why}`],
  job_changed: ["Job", "tick", "warn", (f) => `changed: ${[f.priority && `priority ${f.priority}`,
    f.deadline_at_ms && `deadline ${clock(f.deadline_at_ms)}`].filter(Boolean).join(", ")}, as ${f.why}${
    f.by ? ` (by ${f.by})` : ""}`],
  job_result: ["Job", "flag", "go", (f) => `result published: ${f.outcome}${because(f)}`],
  attempt_accepted: ["Attempt", "up", "go",
    (f) => `${of(f)} accepted as ${f.response_id}${f.adopted ? ", adopted" : ""}`],
  attempt_rejected: ["Attempt", "cross", "bad",
    (f) => `${of(f)} refused: ${f.code ?? f.cause}${f.http_status ? `, HTTP ${f.http_status}` : ""}`],
  attempt_unknown: ["Attempt", "ask", "warn", (f) => `${of(f)}: outcome unknown: ${f.reason}`],
  attempt_settled: ["Attempt", "flag", "go",
    (f) => `${of(f)} ended: ${f.status}${because(f)}, found by ${f.found_by} after ${count(f.polls ?? 0, "poll")}`],
  hedge_permitted: ["Attempt", "up", "warn",
    (f) => `${of(f)} still runs after ${span(f.age_ms)}: a second attempt is permitted`],
  webhook_received: ["Webhook", "diamond", "ok", (f) => `webhook ${f.event_type}`],
  response_claimed: ["Poll", "tick", "still", (f) => `${f.response_id} belongs to attempt ${f.attempt}`],
  usage_booked: ["Attempt", "tick", "still",
    (f) => `${of(f)}: ${count(f.output_tokens ?? 0, "output token")} booked after the result`],
  response_released: ["Poll", "cross", "warn", (f) => `no job waits for ${f.response_id}: it is cancelled`],
  response_deadline_moved: ["Poll", "tick", "still", (f) => `polled until ${clock(f.last_poll_at_ms)} from now on`],
  response_observed: ["Poll", "dot", "go", (f) => `poll: ${f.status ?? f.outcome}${because(f)}`],
  poll_failed: ["Poll", "cross", "bad", (f) => `poll failed: ${f.reason}`],
  "responses/timer_fired": ["Poll", "tick", "still", () => "time for a poll"],
};

/** Lane, shape and tone of a fact. */
export const kindOf = (entry) => KINDS[entry.kind] ?? KINDS[`${entry.topic}/${entry.kind}`];

export function tell(entry) {
  const known = kindOf(entry);
  const text = known ? known[3](entry.summary) : entry.kind.replaceAll("_", " ");
  return entry.summary.ignored ? `${text} (changed nothing: ${entry.summary.ignored})` : text;
}

export function factsTable(entries) {
  const row = (entry) => h("tr", {}, h("td", { class: "num" }, `+${span(entry.at_ms - entries[0].at_ms)}`),
    h("td", { class: "num" }, clock(entry.at_ms)), h("td", {}, tell(entry)),
    h("td", { class: "place" }, `${entry.topic}/${entry.partition}@${entry.offset}`));
  const head = ["After", "Time", "Fact", "Place in the log"].map((name) => h("th", { scope: "col" }, name));
  return h("table", { class: "facts" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, entries.map(row)));
}
