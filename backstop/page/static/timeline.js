// A job's facts as lanes: the job, its attempts as bars, webhooks, polls. The table of facts has the same content.
import { h, put, s } from "./dom.js";
import { kindOf, tell } from "./facts.js";
import { clock, span, tone as toneOf } from "./words.js";

const LABEL = 84;
const LANE = 30;
const TOP = 8;
const APART = 9; // closer marks are moved apart
const ATTEMPTS_MAX = 50;

const SHAPES = {
  up: "M0-6 5.5 4h-11z",
  flag: "M-5-5H5V5H-5z",
  diamond: "M0-6.5 6.5 0 0 6.5-6.5 0z",
  tick: "M-.8-5H.8V5H-.8z",
  dot: "M0-5a5 5 0 1 1 0 10A5 5 0 0 1 0-5z",
  ask: "M-5 0a5 5 0 1 1 10 0 5 5 0 1 1-10 0zm2 0a3 3 0 1 0 6 0 3 3 0 1 0-6 0z",
  cross: "M-5-3.4-3.4-5 0-1.6 3.4-5 5-3.4 1.6 0 5 3.4 3.4 5 0 1.6-3.4 5-5 3.4-1.6 0z",
};

/** What to draw, lane by lane, without positions. `untilMs`: the end of the time axis. */
function lanesOf(job, entries, untilMs) {
  const lanes = new Map();
  const lane = (name) => lanes.get(name) ?? lanes.set(name, { marks: [], bars: [] }).get(name);
  lane("Job");
  for (const [number, bars] of attemptBars(job, entries, untilMs)) lane(`Attempt ${number}`).bars.push(...bars);
  lane("Webhook");
  lane("Poll");
  for (const entry of entries) {
    const [name, shape, tone] = kindOf(entry) ?? ["Job", "tick", "still"];
    const ended = shape === "flag" && toneOf(entry.summary.outcome ?? entry.summary.status);
    const mark = { at: entry.at_ms, shape, tone: ended || tone, text: tell(entry) };
    lane(name === "Attempt" ? `Attempt ${entry.summary.attempt}` : name).marks.push(mark);
  }
  return lanes;
}

/** For each attempt: the time until the provider accepted it, then the time that it ran. */
function attemptBars(job, entries, untilMs) {
  const found = new Map();
  for (let number = 1; number <= Math.min(job.attempts, ATTEMPTS_MAX); number++) {
    const facts = entries.filter((entry) => isOfAttempt(entry) && entry.summary.attempt === number);
    const at = (...kinds) => facts.find((entry) => kinds.includes(entry.kind))?.at_ms;
    const accepted = at("attempt_accepted");
    const over = at("attempt_settled", "attempt_rejected") ?? untilMs;
    const sent = { from: beginOf(number, facts[0]?.at_ms ?? untilMs, job, entries), to: accepted ?? over };
    const bars = [{ ...sent, kind: "sent", text: `attempt ${number}: submitting` }];
    if (accepted !== undefined) {
      const text = `attempt ${number}: at the provider for ${span(over - accepted)}`;
      bars.push({ from: accepted, to: over, kind: "ran", text });
    }
    found.set(number, bars);
  }
  return found;
}

const isOfAttempt = (entry) => entry.kind.startsWith("attempt_");

/** When an attempt began. No fact says so: at the submission, at a timer of the job, after the attempt before, or as a
    second one beside it. */
function beginOf(number, firstMs, job, entries) {
  const begins = (entry) => ["job_submitted", "response_adopted", "hedge_permitted"].includes(entry.kind) ||
    (entry.kind === "timer_fired" && entry.topic === "jobs") || (isOfAttempt(entry) && entry.summary.attempt < number);
  return entries.filter((entry) => entry.at_ms <= firstMs && begins(entry)).at(-1)?.at_ms ?? job.submitted_at_ms;
}

export function drawTimeline(holder, job, entries, untilMs) {
  const from = entries[0]?.at_ms ?? job.submitted_at_ms;
  const to = Math.max(untilMs, from + 100, ...entries.map((entry) => entry.at_ms));
  const lanes = lanesOf(job, entries, to);
  const width = Math.max(240, holder.clientWidth);
  const height = TOP + lanes.size * LANE + 22;
  const x = (at) => LABEL + ((at - from) / (to - from)) * (width - LABEL - 14);
  const after = (mark) => `+${span(mark.at - from)}`;
  const said = h("p", { class: "note hint", "aria-live": "polite" }, "Point at a mark, or focus it, to read it.");
  const say = (mark) => {
    said.classList.remove("hint");
    put(said, [h("b", {}, after(mark)), ` ${mark.text} `, h("span", { class: "hint" }, clock(mark.at))]);
  };
  const picture = s("svg", { class: "timeline", width, height, viewBox: `0 0 ${width} ${height}`, role: "group",
    "aria-label": "Timeline; the table of facts below has the same content" });
  put(picture, [axis(from, to, x, width, height), [...lanes].map(([name, lane], row) => {
    const y = TOP + row * LANE + LANE / 2;
    return [
      s("line", { class: "lane", x1: LABEL, x2: width, y1: y + LANE / 2, y2: y + LANE / 2 }),
      s("text", { class: "lane-name", x: 0, y: y + 4 }, name),
      lane.bars.map((bar) => drawBar(bar, x, y)),
      apart(lane.marks, x).map(([mark, left, lift]) => drawMark(mark, left, y + lift, after(mark), say)),
    ];
  })]);
  put(holder, [picture, said]);
}

function drawBar(bar, x, y) {
  const tall = bar.kind === "ran" ? 10 : 4;
  const width = Math.max(1, x(bar.to) - x(bar.from));
  const box = { x: x(bar.from), y: y - tall / 2, width, height: tall, rx: 2 };
  return s("rect", { class: `bar ${bar.kind}`, ...box }, s("title", {}, bar.text));
}

function drawMark(mark, left, y, after, say) {
  const tell = () => say(mark);
  return s("g", { class: `mark ${mark.tone}`, transform: `translate(${left} ${y})`, tabindex: 0, role: "img",
    "aria-label": `${after} ${mark.text}`, focus: tell, pointerenter: tell },
  s("circle", { class: "aim", r: 11 }), s("path", { d: SHAPES[mark.shape] }));
}

/** Each mark with its position, raised where it would cover another. */
function apart(marks, x) {
  let [last, step] = [-Infinity, 0];
  return marks.map((mark) => {
    const left = x(mark.at);
    step = left - last < APART ? step + 1 : 0;
    last = left;
    return [mark, left, [0, -6, 6][step % 3]];
  });
}

function axis(from, to, x, width, height) {
  return ticks(to - from, width - LABEL).map((at) => [
    s("line", { class: "grid", x1: x(from + at), x2: x(from + at), y1: TOP, y2: height - 20 }),
    s("text", { class: "axis", x: x(from + at), y: height - 5, "text-anchor": at ? "middle" : "start" },
      at ? `+${span(at)}` : "0"),
  ]);
}

/** Round values on an axis of `length` ms, far enough apart for their labels. */
function ticks(length, width) {
  const rough = length / Math.max(2, width / (width < 500 ? 64 : 100));
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return Array.from({ length: Math.floor(length / step) + 1 }, (_, n) => n * step).filter((at) => at < length * 0.97);
}
