// Names and formats: statuses with their shapes, durations, times, what a job waits for.
import { h, s } from "./dom.js";

let ahead = 0; // how far the server's clock is ahead of this one; all timestamps are the server's

export const setClock = (at) => (ahead = at - Date.now());
export const now = () => Date.now() + ahead;

const ring = () => s("circle", { cx: 8, cy: 8, r: 6.25, fill: "none", stroke: "currentColor", "stroke-width": 1.5 });
const line = (d) => s("path", { d, fill: "none", stroke: "currentColor", "stroke-width": 1.6,
  "stroke-linecap": "round" });
const solid = (d) => s("path", { d, fill: "currentColor" });
const cut = (d) => s("path", { d, class: "cut", fill: "none", "stroke-width": 1.8, "stroke-linecap": "round" });

// Status → word, tone, shape. The shapes differ, so that colour is not needed.
const STATUS = {
  waiting: ["Waiting its turn", "go",
    () => [ring(), line("M5.6 4.8h4.8M5.6 11.2h4.8M6 4.8c0 2.4 4 4 4 6.4M10 4.8c0 2.4-4 4-4 6.4")]],
  submitting: ["Submitting", "go", () => [ring(), line("M8 11V5.5M5.7 7.6 8 5.3l2.3 2.3")]],
  running: ["Running", "go", () => [ring(), solid("M6.3 5v6l5-3z")]],
  unknown: ["Outcome unknown", "warn",
    () => [ring(), line("M6.2 6.4a1.9 1.9 0 1 1 2.6 1.7c-.6.3-.8.6-.8 1.2M8 11.3v.1")]],
  backing_off: ["Backing off", "warn", () => [ring(), line("M6.4 5.8v4.4M9.6 5.8v4.4")]],
  finishing: ["Finishing", "go", () => [ring(), line("M5.2 8h.1M8 8h.1M10.8 8h.1")]],
  completed: ["Completed", "ok", () => [solid("M8 1a7 7 0 1 1 0 14A7 7 0 0 1 8 1z"), cut("m5 8.2 2.1 2.1L11.2 6")]],
  failed: ["Failed", "bad", () => [solid("M5.2 1h5.6L15 5.2v5.6L10.8 15H5.2L1 10.8V5.2z"),
    cut("m5.8 5.8 4.4 4.4m0-4.4-4.4 4.4")]],
  incomplete: ["Incomplete", "warn", () => [ring(), solid("M8 2a6 6 0 0 1 0 12z")]],
  cancelled: ["Cancelled", "still", () => [ring(), line("m4 12 8-8")]],
  expired: ["Expired", "bad", () => [ring(), line("M8 4.6V8l2.3 1.6")]],
  rejected: ["Rejected", "bad", () => [solid("M2 2h12v12H2z"), cut("m5.8 5.8 4.4 4.4m0-4.4-4.4 4.4")]],
};
export const STATUSES = Object.keys(STATUS);
export const OPEN = ["waiting", "submitting", "running", "unknown", "backing_off", "finishing"];
export const word = (status) => STATUS[status]?.[0] ?? status;
export const tone = (status) => STATUS[status]?.[1] ?? "still";

export function badge(status) {
  const shape = STATUS[status]?.[2] ?? (() => [ring()]);
  return h("span", { class: `status ${tone(status)}`, "data-status": status },
    s("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" }, shape()), word(status));
}

// What a job waits for → words before and after the time of Backstop's next action.
const WAITS = {
  log: ["its facts to be read from the log"],
  turn: ["its turn under the limits", ", from "],
  acceptance: ["the provider to accept it", ", until "],
  webhook: ["a webhook, or the poll "],
  poll: ["a poll that confirms its webhook", " · next "],
  adoption: ["news of a create that got no answer", ", until "],
  retry: ["its next attempt "],
  lane: ["the lane of its model to open", ", at most until "],
  operator: ["the account at the provider to be mended", " · next try "],
  deadline: ["a late response, until its deadline "],
  result: ["its result to be published"],
  worker: ["a worker for its partition"],
  resume: ["an operator to resume creates", ", at most until "],
};

/** What the job waits for, until when, and why; null once it has ended. */
export function waiting(job) {
  const wait = job.waiting;
  if (!wait) return null;
  const [words, before] = WAITS[wait.for] ?? [wait.for, " "];
  const until = wait.until_ms ? [before ?? "", ago(wait.until_ms)] : null;
  return [words, until, PLAIN.includes(wait.because.code) ? null : [" · ", because(wait.because)]];
}

// Codes that say no more than what is waited for.
const PLAIN = ["running", "queued", "in_progress", "create_sent", "accepted", "ended", "webhook_arrived"];

/** A reason by its code; its sentence shows where it is pointed at. */
export const because = ({ code, message }) => h("span", { class: "code", title: message }, code);

const UNITS = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"]];

/** A duration: 840 ms, 4.2 s, 3 min 20 s, 5 h 2 min. */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9_950 ? 1 : 0)} s`;
  const at = UNITS.findIndex(([size]) => ms >= size);
  const [size, name] = UNITS[at];
  const [small, rest] = UNITS[at + 1] ?? [1000, "s"];
  const left = Math.floor((ms % size) / small);
  return `${Math.floor(ms / size)} ${name}${left ? ` ${left} ${rest}` : ""}`;
}

const rough = (ms) => (ms < 1_000 ? "now" : ms < 60_000 ? `${Math.floor(ms / 1000)} s` : span(ms - (ms % 60_000)));

export function relative(at) {
  const left = at - now();
  const text = rough(Math.abs(left));
  return text === "now" ? text : left > 0 ? `in ${text}` : `${text} ago`;
}

/** A relative time, kept up to date by `tick` below. */
export const ago = (at) => h("time", { "data-at": at, datetime: new Date(at).toISOString(), title: clock(at, true) },
  relative(at));

export function tick() {
  for (const node of document.querySelectorAll("time[data-at]")) {
    const text = relative(Number(node.dataset.at));
    if (node.textContent !== text) node.textContent = text;
  }
}

export function clock(at, day = false) {
  const time = new Date(at).toLocaleTimeString("en-GB") + "." + String(at % 1000).padStart(3, "0");
  return day ? `${new Date(at).toLocaleDateString("en-CA")} ${time}` : time;
}

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const number = (n) => n.toLocaleString("en");
export const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
export const size = (bytes) => (bytes < 1024 ? `${bytes} B` : bytes < 1_048_576 ? `${(bytes / 1024).toFixed(1)} kB`
  : `${(bytes / 1_048_576).toFixed(1)} MB`);

export function share(part, all) {
  if (!all) return "–";
  return `${((100 * part) / all).toFixed(part && part < all / 10 ? 1 : 0)} %`;
}
