// What needs attention, then the jobs: newest first, live, filtered by the query in the address.
import { ask, every } from "./api.js";
import { h, put } from "./dom.js";
import { findings } from "./findings.js";
import { submitForm } from "./submit.js";
import { OPEN, STATUSES, ago, badge, because, count, now, number, span, tone, waiting, word } from "./words.js";

const PAGE = 50;
const HEAD = ["Status", "Job, session, tags", "Model", "What it waits for, or how it ended", "Submitted"];
const ROWS_MAX = 1_000;
const ATTENTION_MS = 10_000;
const WRONG = STATUSES.filter((status) => !OPEN.includes(status) && ["bad", "warn"].includes(tone(status)));
const STATES = [["", "any status"], [OPEN.join(), "open"], [WRONG.join(), "went wrong"],
  ...STATUSES.map((status) => [status, word(status).toLowerCase()])];
// Durations in seconds: a point in time in the address would become outdated.
const SINCE = [["", "any time"], ["3600", "last hour"], ["86400", "last day"], ["604800", "last week"]];

export function jobsView({ query, scopes, onLeave, fail, follow }) {
  const [rows, byId] = [[], new Map()]; // in the order on the screen
  const list = h("ol", { class: "rows", "aria-label": "Jobs, newest first" });
  const empty = h("div", {});
  const older = h("button", { class: "quiet more", type: "button", hidden: true,
    click: () => load(older.dataset.cursor) }, "Show older jobs");
  const form = filters(query);
  let [reading, below] = [new AbortController(), false]; // `below`: whether older jobs exist that are not shown
  onLeave(() => reading.abort());

  function asked(cursor) {
    const asked = new URLSearchParams({ limit: PAGE });
    for (const name of ["status", "model", "session", "tag"]) if (query.get(name)) asked.set(name, query.get(name));
    if (query.get("since")) asked.set("since", Math.round(now() - 1000 * Number(query.get("since"))));
    if (cursor) asked.set("cursor", cursor);
    return `/v1/jobs?${asked}`;
  }

  async function load(cursor) {
    if (!cursor) {
      reading.abort();
      reading = new AbortController();
    }
    try {
      const page = await ask(asked(cursor), { signal: reading.signal });
      for (const job of page.data) take(job, true);
      endsWith(page);
    } catch (error) {
      fail(error);
    }
  }

  /** Older jobs are those behind this page. */
  function endsWith(page) {
    older.hidden = !page.next_cursor || rows.length >= ROWS_MAX;
    below = Boolean(page.next_cursor) || rows.length >= ROWS_MAX;
    if (page.next_cursor) older.dataset.cursor = page.next_cursor;
    showEmpty();
  }

  /** Read the newest page again. Where no job of it was shown, there may be others between it and those shown. */
  async function refresh() {
    const page = await ask(asked(), { signal: reading.signal });
    const apart = !page.data.some((job) => byId.has(job.job_id));
    for (const job of page.data) take(job, true);
    if (apart) endsWith(page);
  }

  /** Show `job`, unless a newer version of it is shown already. */
  function take(job, read) {
    const known = byId.get(job.job_id);
    const newer = known && known.job.version - job.version;
    if (newer > 0 || (newer === 0 && (!read || same(known.job, job)))) return;
    if (!matches(job, query)) return known && drop(known);
    if (known) return known.show(job);
    let place = rows.findIndex((row) => after(job, row.job));
    if (place < 0) place = rows.length;
    // Jobs older than the last one read come with a later page.
    if (!read && below && place === rows.length) return;
    const row = jobRow(job);
    list.insertBefore(row.node, rows[place]?.node ?? null);
    rows.splice(place, 0, row);
    byId.set(job.job_id, row);
    if (rows.length > ROWS_MAX) {
      drop(rows.at(-1));
      [below, older.hidden] = [true,
        true]; // no further page can start here: older jobs are found by filters
    }
    showEmpty();
  }

  function drop(row) {
    row.node.remove();
    rows.splice(rows.indexOf(row), 1);
    byId.delete(row.job.job_id);
    showEmpty();
  }

  const showEmpty = () => put(empty, rows.length ? null : emptyState(query));

  const groups = h("section", { class: "reasons", "aria-label": "Reasons of the last day" });
  onLeave(every(ATTENTION_MS, async () => put(groups, reasons(await ask("/v1/reasons")))));
  load().then(() => follow("/v1/events", { job: (job) => take(job, false), gap: () => refresh().catch(fail) }));
  // Webhooks and polls change what a job waits for without a new version of it.
  onLeave(every(ATTENTION_MS, () => (rows.some(({ job }) => job.waiting) ? refresh() : null)));
  const attention = h("section", { class: "attention", "aria-label": "Needs attention" });
  onLeave(every(ATTENTION_MS, async () => put(attention, findings(await ask("/v1/attention")))));
  return [
    attention,
    h("div", { class: "head" }, h("h1", {}, "Jobs"), form),
    scopes.has("submit") && h("details", { class: "new" }, h("summary", {}, "New job"),
      submitForm({ taken: () => {}, fail })),
    groups, h("div", { class: "row-head", "aria-hidden": "true" }, HEAD.map((name) => h("span", {}, name))), list,
    empty, older,
  ];
}

const same = (a, b) => JSON.stringify(a.waiting) === JSON.stringify(b.waiting);
const after = (a, b) => a.submitted_at_ms > b.submitted_at_ms || (a.submitted_at_ms === b.submitted_at_ms &&
  a.job_id > b.job_id);

function matches(job, query) {
  const is = (name, value) => !query.get(name) || query.get(name) === value;
  const since = query.get("since");
  return (!query.get("status") || query.get("status").split(",").includes(job.status)) && is("model", job.model) &&
    is("session", job.session_id) && (!query.get("tag") || job.tags.includes(query.get("tag"))) &&
    (!since || job.submitted_at_ms >= now() - 1000 * Number(since));
}

/** A row that can be updated without losing the focus. */
export function jobRow(job) {
  const link = h("a", { class: "id", href: `#/jobs/${encodeURIComponent(job.job_id)}`, "data-row": true }, job.job_id);
  const [status, labels, what] = [h("div", { class: "what-status" }), h("div", { class: "labels" }),
    h("div", { class: "what" })];
  const node = h("li", { class: "row", "data-job": job.job_id }, status, h("div", { class: "who" }, link, labels),
    h("div", { class: "model" }, job.model ?? "–"), what, h("div", { class: "when" }, ago(job.submitted_at_ms)));
  const row = { node, job, show };

  function show(fresh) {
    row.job = fresh;
    put(status, badge(fresh.status));
    put(labels, [
      fresh.session_id && h("a", { class: "chip", href: `#/sessions/${encodeURIComponent(fresh.session_id)}` },
        fresh.session_id),
      fresh.tags.map((tag) => h("a", { class: "chip tag", href: `#/jobs?${new URLSearchParams({ tag })}` }, `#${tag}`)),
    ]);
    const waits = waiting(fresh);
    const tried = fresh.attempts > 1 ? ` · ${count(fresh.attempts, "attempt")}` : "";
    put(what, waits ? ["waits for ", waits, tried]
      : [`took ${span((fresh.finished_at_ms ?? fresh.updated_at_ms) - fresh.submitted_at_ms)}`,
      fresh.found_by ? ` · found by ${fresh.found_by}` : "", tried,
      fresh.reason ? [" · ", because(fresh.reason)] : null]);
  }

  show(job);
  return row;
}

function filters(query) {
  const select = (name, choices) => h("select", { name, "aria-label": name },
    choices.map(([value, text]) => h("option", { value, selected: (query.get(name) ?? "") === value }, text)));
  const text = (name, first) => h("input", { name, type: "search", placeholder: name, "aria-label": name,
    value: query.get(name) ?? "", size: 10, "data-filter": first });
  const apply = (event) => {
    event.preventDefault();
    const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    location.hash = `#/jobs${wanted.size ? `?${wanted}` : ""}`;
  };
  const form = h("form", { class: "filters", role: "search", submit: apply, change: apply },
    text("model", true), text("session"), text("tag"), select("status", STATES), select("since", SINCE));
  return form;
}

function emptyState(query) {
  if ([...query.keys()].length) {
    return h("p", { class: "empty" }, "No job matches these filters. ", h("a", { href: "#/jobs" }, "Show all jobs"));
  }
  return h("p", { class: "empty" }, "No jobs yet. Submit one here, or with ",
    h("code", {}, 'backstop jobs submit -m gpt-5.2 -i "Say hello."'));
}

/** The reasons of many jobs, together: 23 × rate_limit_exceeded. Groups without a reason of their own are left out. */
function reasons(seen) {
  const told = [...seen.waiting.filter((group) => WHY.includes(group.for)),
    ...seen.ended.filter((group) => group.code)];
  return told.map((group) => h("a", { class: "tally", title: group.message,
    href: group.for ? `#/jobs/${encodeURIComponent(group.job_ids[0])}` : `#/jobs?status=${group.status}` },
  h("b", {}, `${number(group.count)} ×`), because(group),
  h("span", { class: "hint" }, group.for ? `waits for ${group.for}` : word(group.status).toLowerCase())));
}

// Waits that have a reason worth a glance; the others are the plain course of a job.
const WHY = ["adoption", "retry", "lane", "operator", "deadline", "worker", "resume"];
