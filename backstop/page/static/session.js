// A session: its jobs in order of submission, each with its result, and a form for the next one.
import { ask, jobPath, sessionPath } from "./api.js";
import { h, put } from "./dom.js";
import { outputText } from "./job.js";
import { submitForm } from "./submit.js";
import { ago, badge, count, span, waiting } from "./words.js";

const PAGE = 100;
const OUTPUT_CHARS_MAX = 600;

export function sessionView({ id, scopes, onLeave, fail, follow }) {
  const turns = new Map();
  const list = h("ol", { class: "turns", "aria-label": "Jobs of the session, oldest first" });
  const tally = h("p", { class: "hint" });
  const earlier = h("button", { class: "quiet more", type: "button", hidden: true,
    click: () => read(earlier.dataset.cursor) }, "Show earlier jobs");
  let following = false;

  async function read(cursor) {
    try {
      const asked = new URLSearchParams({ limit: PAGE, ...(cursor && { cursor }) });
      const page = await ask(`${sessionPath(id)}?${asked}`);
      const apart = !page.data.some((job) => turns.has(job.job_id));
      page.data.forEach(take);
      if (cursor || apart) { // else it is read again, and earlier pages may be shown
        earlier.hidden = !page.next_cursor;
        if (page.next_cursor) earlier.dataset.cursor = page.next_cursor;
      }
      goOn();
    } catch (error) {
      if (error.status === 404) put(tally, "No jobs yet: the first one that you submit below starts this session.");
      else fail(error);
    }
  }

  /** A session that does not exist has no stream; its first job makes both. */
  function goOn() {
    if (following) return;
    following = true;
    follow(sessionPath(id, "/events"), { job: take, gap: () => read() });
  }

  function take(job) {
    const known = turns.get(job.job_id);
    if (known && known.job.version >= job.version) return;
    const turn = known ?? makeTurn();
    turn.show(job);
    if (!known) {
      const next = [...turns.values()].filter((other) => later(other.job, job)).sort((a,
        b) => (later(a.job, b.job) ? 1 : -1))[0];
      list.insertBefore(turn.node, next?.node ?? null);
      turns.set(job.job_id, turn);
    }
    const open = [...turns.values()].filter((one) => !one.job.terminal).length;
    put(tally, `${count(turns.size, "job")}${open ? `, ${open} of them open` : ""}`);
  }

  onLeave(() => turns.clear());
  read();
  return [
    h("div", { class: "head" }, h("h1", {}, "Session ", h("span", { class: "id" }, id)), tally),
    earlier, list,
    scopes.has("submit") && h("section", { class: "card" }, h("h2", {}, "Next job"),
      submitForm({ session: id, fail, taken: goOn })),
  ];
}

const later = (a, b) => a.submitted_at_ms > b.submitted_at_ms || (a.submitted_at_ms === b.submitted_at_ms &&
  a.job_id > b.job_id);

function makeTurn() {
  const [top, what, output] = [h("div", { class: "turn-top" }), h("div", { class: "hint" }), h("div", {})];
  const node = h("li", { class: "turn" });
  const turn = { node, job: null, show };

  function show(job) {
    turn.job = job;
    if (!node.dataset.job) {
      node.dataset.job = job.job_id;
      put(node, [top, what, output]);
      put(top, [h("a", { class: "id", "data-row": true, href: `#/jobs/${encodeURIComponent(job.job_id)}` }, job.job_id),
        h("span", {}), h("span", { class: "hint" }, job.model ?? ""), ago(job.submitted_at_ms)]);
    }
    top.children[1].replaceWith(badge(job.status));
    const waits = waiting(job);
    put(what, waits ? ["waits for ", waits]
      : `took ${span((job.finished_at_ms ?? job.updated_at_ms) - job.submitted_at_ms)}`);
    if (job.terminal) fill(job);
  }

  async function fill(job) {
    try {
      const { result } = await ask(jobPath(job.job_id));
      const text = outputText(result?.response);
      const cut = text?.slice(0, OUTPUT_CHARS_MAX);
      put(output, text ? h("pre", { class: "output" }, cut, cut.length < text.length && " …")
        : h("p", { class: "hint" }, result?.reason ? `${result.reason.code}: ${result.reason.message}`
          : "The job ended without text."));
    } catch {
      put(output, h("p", { class: "hint" }, "Its output can't be read at the moment."));
    }
  }

  return turn;
}
