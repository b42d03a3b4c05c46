// One job: its state, its timeline, and its result.
import { ask, every, jobPath } from "./api.js";
import { money } from "./costs.js";
import { h, put } from "./dom.js";
import { factsTable } from "./facts.js";
import { drawTimeline } from "./timeline.js";
import { ago, badge, capital, clock, count, now, number, size, span, waiting } from "./words.js";

const OUTPUT_CHARS_MAX = 4_000;
const CONFIRM_MS = 5_000;
const POLL_MS = 2_000; // for facts that change no row: webhooks, polls

export function jobView({ id, scopes, onLeave, fail, follow }) {
  const parts = Object.fromEntries(["top", "summary", "result", "request",
    "chart", "facts"].map((name) => [name, h("div", { class: `part-${name}` })]));
  let [job, entries, busy, again, wide, waits] = [null, [], false, false, 0, null];
  let stopFollowing = () => {};

  async function read() {
    if (busy) return (again = true);
    busy = true;
    try {
      do {
        again = false;
        const [fresh, timeline] = await Promise.all([ask(jobPath(id)), ask(jobPath(id, "/timeline"))]);
        if (job === null || fresh.version > job.version || timeline.entries.length !== entries.length ||
          !fresh.terminal) show(fresh, timeline.entries);
        if (fresh.terminal) stopFollowing();
      } while (again);
    } catch (error) {
      if (error.status !== 404) return fail(error);
      stopFollowing();
      put(parts.top, h("p", { class: "empty" }, error.message, " ", h("a", { href: "#/jobs" }, "All jobs")));
    } finally {
      busy = false;
    }
  }

  function show(fresh, facts) {
    const changed = job?.version !== fresh.version;
    [job, entries] = [fresh, facts];
    if (changed) {
      put(parts.top, heading(job, scopes, cancel));
      waits = parts.top.querySelector(".waits");
      put(parts.summary, summary(job));
      put(parts.result, result(job, fail));
      put(parts.request, requestCard(job, scopes, fail));
    }
    put(waits, job.waiting ? ["Waits for ", waiting(job), ", since ", ago(job.waiting.since_ms), ". ",
      h("span", { class: "hint" },
      `${capital(job.waiting.because.message)}.`)] : null);
    draw();
    put(parts.facts, factsTable(entries));
    if (job.terminal) stopFollowing();
  }

  const draw = () => job && drawChart(parts.chart, job, entries);

  async function cancel(event) {
    if (!event.target.dataset.asked) return confirm(event.target);
    event.target.disabled = true;
    try {
      await ask(jobPath(id, "/cancel"), { method: "POST", body: { reason: "from the page" } });
      read();
    } catch (error) {
      fail(error);
    }
  }

  const watcher = new ResizeObserver(() => parts.chart.clientWidth !== wide && (wide = parts.chart.clientWidth) &&
    draw());
  watcher.observe(parts.chart);
  onLeave(() => watcher.disconnect());
  stopFollowing = follow(jobPath(id, "/events"), { job: (seen) => (seen.terminal ? stopFollowing() : null, read()),
    gap: read });
  onLeave(every(POLL_MS, () => (job?.terminal ? null : read())));
  return [parts.top, parts.summary,
    h("section", { class: "card" }, h("h2", {}, "Timeline"), parts.chart,
      h("details", { class: "facts-fold" }, h("summary", {}, "All facts, as a table"),
      h("div", { class: "scroll" }, parts.facts))),
    parts.result, parts.request];
}

function drawChart(holder, job, entries) {
  const focused = [...holder.querySelectorAll(".mark")].indexOf(document.activeElement);
  drawTimeline(holder, job, entries, job.terminal ? 0 : now());
  if (focused >= 0) holder.querySelectorAll(".mark")[focused]?.focus();
}

/** Ask once more, on the button itself; after a while it is as before. */
function confirm(button) {
  const before = button.textContent;
  button.dataset.asked = "yes";
  put(button, "Cancel it: are you sure?");
  setTimeout(() => {
    delete button.dataset.asked;
    put(button, before);
  }, CONFIRM_MS);
}

/** The request and the whole job as JSON; the request as a command for a terminal, and once more as a new job. */
function requestCard(job, scopes, fail) {
  const body = h("div", {});
  const load = async (event) => {
    if (!event.target.open || body.childNodes.length) return;
    try {
      const { request } = await ask(jobPath(job.job_id, "/request"));
      put(body, [h("pre", { class: "output" }, JSON.stringify(request, null, 2)), h("div", { class: "actions" },
        copier("Copy as curl", curl(request)), copier("Copy the request", JSON.stringify(request)),
        scopes.has("submit") && h("button", { class: "quiet", type: "button", click: (e) => again(e, request) },
          "Run again"))]);
    } catch (error) {
      put(body, h("p", { class: "hint" }, error.message));
    }
  };
  const again = async (event, request) => {
    event.target.disabled = true;
    try {
      const taken = await ask("/v1/jobs", { method: "POST", body: { request, session_id: job.session_id,
        tags: job.tags } });
      location.hash = `#/jobs/${encodeURIComponent(taken.job_id)}`;
    } catch (error) {
      fail(error);
    }
  };
  return h("section", { class: "card" },
    h("details", { toggle: load }, h("summary", {}, "Request"), body),
    h("details", {}, h("summary", {}, "The job as JSON"), h("pre", { class: "output" }, JSON.stringify(job, null, 2))));
}

function copier(words, text) {
  const button = h("button", { class: "quiet", type: "button", click: async () => {
    await navigator.clipboard.writeText(text);
    put(button, "Copied");
  } }, words);
  return button;
}

const curl = (request) => `curl -s ${location.origin}/v1/jobs -H "Authorization: Bearer $BACKSTOP_API_KEY" ` +
  `-H 'Content-Type: application/json' -d '${JSON.stringify({ request }).replaceAll("'", "'\\''")}'`;

function heading(job, scopes, cancel) {
  return [h("div", { class: "head job-head" }, h("h1", { class: "id" }, job.job_id), badge(job.status),
    !job.terminal && scopes.has("submit") && h("button", { class: "quiet danger", type: "button", click: cancel },
      "Cancel job")),
  h("p", { class: "waits" })];
}

function summary(job) {
  const { timings, usage, rejections, hedge, fallbacks } = job.result ?? {};
  const rows = [
    ["Model", job.model], ["Session", job.session_id && h("a",
      { href: `#/sessions/${encodeURIComponent(job.session_id)}` }, job.session_id)],
    ["Tags", job.tags.length ? job.tags.map((tag) => h("a", { class: "chip tag",
      href: `#/jobs?${new URLSearchParams({ tag })}` }, `#${tag}`)) : null],
    ["Submitted", h("span", { title: clock(job.submitted_at_ms, true) }, ago(job.submitted_at_ms))],
    ["Deadline", !job.terminal && job.deadline_at_ms && ago(job.deadline_at_ms)],
    ["Priority", job.priority], ["Repeats", job.retry_of && h("a",
      { href: `#/jobs/${encodeURIComponent(job.retry_of)}` }, job.retry_of)],
    ["Took", job.finished_at_ms && span(job.finished_at_ms - job.submitted_at_ms)],
    ["Attempts", job.attempts ? `${job.attempts}${rejections ? `, ${count(rejections, "refusal")}` : ""}` : null],
    ["Fallback", fallbacks && fallbacks.map((each) =>
      `${each.model} from attempt ${each.from_attempt}, instead of ${each.instead_of}: ${each.message}`).join("; ")],
    ["Second attempt", hedge && hedged(hedge)],
    ["Found by", job.found_by], ["Queued", timings?.queued_ms !== undefined && timings.queued_ms !== null &&
      span(timings.queued_ms)],
    ["Ran", timings?.running_ms && span(timings.running_ms)],
      ["Webhook after", timings?.webhook_lag_ms && span(timings.webhook_lag_ms)],
    ["End seen after", timings?.detection_ms && span(timings.detection_ms)],
    ["Cost", job.cost && [money(job.cost.cost_usd), job.terminal && job.cost.unmeasured > 0 &&
      ` and ${count(job.cost.unmeasured, "attempt")} of unknown cost`]],
    ["Tokens", usage && `${number(usage.input_tokens)} in, ${number(usage.output_tokens)} out`],
  ];
  return h("dl", { class: "summary" }, rows.filter(([, value]) => value).map(([name, value]) => h("div", {},
    h("dt", {}, name), h("dd", {}, value))));
}

/** That a slow attempt had a second one beside it, which of the two won, and by how much. */
function hedged({ beside, begun_after_ms: after, won, ahead_ms: ahead }) {
  const winner = { hedge: "it won", first: `attempt ${beside} won` }[won] ?? "neither won";
  return `after ${span(after)} of attempt ${beside}: ${winner}${ahead ? `, by ${span(ahead)} or more` : ""}`;
}

/** The text of a response; null where it has none. */
export function outputText(response) {
  const parts = (response?.output ?? []).flatMap((item) => item?.content ?? []);
  const texts = parts.map((part) => part?.text ?? part?.refusal).filter((text) => typeof text === "string");
  return texts.length ? texts.join("\n") : null;
}

function result(job, fail) {
  if (!job.terminal) return null;
  const { reason, response, response_url: whole } = job.result ?? {};
  const text = response === undefined ? null : outputText(response) ?? JSON.stringify(response, null, 2);
  const shown = h("pre", { class: "output", tabindex: 0 }, text?.slice(0, OUTPUT_CHARS_MAX));
  const all = whole && h("button", { class: "quiet", type: "button",
    click: (event) => showWhole(event.target, whole, shown, fail) },
    text?.length > OUTPUT_CHARS_MAX && `The first ${number(OUTPUT_CHARS_MAX)} characters. `, "Show the whole response");
  return h("section", { class: "card" }, h("h2", {}, "Result"),
    reason && h("p", { class: "problem" }, h("code", {}, reason.code), " ", reason.message),
    text !== null && shown, whole ? all : h("p", { class: "hint" }, "The job ended without output."));
}

async function showWhole(button, path, shown, fail) {
  try {
    const text = JSON.stringify(await ask(path), null, 2);
    put(shown, text);
    button.replaceWith(h("p", { class: "hint" },
      `The provider's response object, ${size(new Blob([text]).size)} as shown.`));
  } catch (error) {
    fail(error);
  }
}
