// A job's facts as sentences, as lanes in a picture, and as a table that says the same.
import { h, put, s } from "./dom.js";
import { clock, count, span } from "./words.js";

const LABEL = 84;
const LANE = 30;
const TOP = 8;

// Kind of fact → lane, shape, tone, and what it says. What is not named here is told by its kind, in the job's lane.
const of = (fact) => `attempt ${fact.attempt}`;
const KINDS = {
  job_submitted: ["Job", "up", "go", (f) => `submitted over ${f.door}`],
  job_refused: ["Job", "cross", "bad", (f) => `refused: ${f.code}`],
  "jobs/timer_fired": ["Job", "tick", "still", () => "its time came: the job looks what to do"],
  cancel_requested: ["Job", "cross", "warn", (f) => `cancel requested over ${f.door}`],
  job_result: ["Job", "flag", "go", (f) => `result published: ${f.outcome}${f.code ? ` (${f.code})` : ""}`],
  attempt_accepted: ["Attempt", "up", "go", (f) => `${of(f)} accepted as ${f.response_id}${f.adopted ? ", adopted" : ""}`],
  attempt_rejected: ["Attempt", "cross", "bad", (f) => `${of(f)} refused: ${f.code ?? f.blame}${f.http_status ? `, HTTP ${f.http_status}` : ""}`],
  attempt_unknown: ["Attempt", "ask", "warn", (f) => `${of(f)} unheard: ${f.reason}`],
  attempt_settled: ["Attempt", "flag", "go", (f) => `${of(f)} ended: ${f.status}${f.code ? ` (${f.code})` : ""}, found by ${f.found_by} after ${count(f.looks ?? 0, "look")}`],
  webhook_received: ["Webhook", "diamond", "ok", (f) => `webhook ${f.event_type}`],
  response_claimed: ["Look", "tick", "still", (f) => `${f.response_id} belongs to attempt ${f.attempt}`],
  response_observed: ["Look", "dot", "go", (f) => `look: ${f.status ?? f.outcome}${f.code ? ` (${f.code})` : ""}`],
  look_failed: ["Look", "cross", "bad", (f) => `look failed: ${f.reason}`],
  "responses/timer_fired": ["Look", "tick", "still", () => "time for a look"],
};
const SHAPES = {
  up: "M0-6 5.5 4h-11z", flag: "M-5-5H5V5H-5z", diamond: "M0-6.5 6.5 0 0 6.5-6.5 0z", tick: "M-.8-5H.8V5H-.8z",
  dot: "M0-5a5 5 0 1 1 0 10A5 5 0 0 1 0-5z", ask: "M-5 0a5 5 0 1 1 10 0 5 5 0 1 1-10 0zm2 0a3 3 0 1 0 6 0 3 3 0 1 0-6 0z",
  cross: "M-5-3.4-3.4-5 0-1.6 3.4-5 5-3.4 1.6 0 5 3.4 3.4 5 0 1.6-3.4 5-5 3.4-1.6 0z",
};

const kindOf = (entry) => KINDS[entry.kind] ?? KINDS[`${entry.topic}/${entry.kind}`];

export function tell(entry) {
  const known = kindOf(entry);
  const text = known ? known[3](entry.summary) : entry.kind.replaceAll("_", " ");
  return entry.summary.ignored ? `${text} (changed nothing: ${entry.summary.ignored})` : text;
}

/** What is to be drawn, apart from where. Pure. `until_ms`: the end of the picture. */
export function lanesOf(job, entries, untilMs) {
  const lanes = new Map([["Job", { marks: [], bars: [] }]]);
  const lane = (name) => lanes.get(name) ?? lanes.set(name, { marks: [], bars: [] }).get(name);
  for (const [number, bars] of attemptBars(job, entries, untilMs)) lane(`Attempt ${number}`).bars.push(...bars);
  lane("Webhook");
  lane("Look");
  for (const entry of entries) {
    const [name, shape, tone] = kindOf(entry) ?? ["Job", "tick", "still"];
    const ended = { failed: "bad", expired: "bad", rejected: "bad", completed: "ok", cancelled: "still" }[entry.summary.outcome ?? entry.summary.status];
    lane(name === "Attempt" ? `Attempt ${entry.summary.attempt}` : name).marks.push({ at: entry.at_ms, shape, tone: (shape === "flag" && ended) || tone, text: tell(entry) });
  }
  return lanes;
}

/** Of each attempt: the time until the provider took it, then the time that it ran. */
function attemptBars(job, entries, untilMs) {
  const found = new Map();
  const about = (number) => entries.filter((entry) => entry.summary.attempt === number && entry.kind.startsWith("attempt_"));
  for (let number = 1; number <= Math.min(job.attempts, 50); number++) {
    const facts = about(number);
    const first = facts[0]?.at_ms ?? untilMs;
    const before = entries.filter((e) => e.at_ms <= first && (e.kind === "job_submitted" || (e.topic === "jobs" && e.kind === "timer_fired") || (e.kind.startsWith("attempt_") && e.summary.attempt < number)));
    const begin = before.at(-1)?.at_ms ?? job.submitted_at_ms;
    const accepted = facts.find((e) => e.kind === "attempt_accepted")?.at_ms;
    const over = facts.find((e) => e.kind === "attempt_settled" || e.kind === "attempt_rejected")?.at_ms ?? untilMs;
    const bars = [{ from: begin, to: Math.min(accepted ?? over, over), kind: "sent", text: `attempt ${number}: submitting` }];
    if (accepted !== undefined) bars.push({ from: accepted, to: over, kind: "ran", text: `attempt ${number}: at the provider for ${span(over - accepted)}` });
    found.set(number, bars);
  }
  return found;
}

export function drawTimeline(holder, job, entries, untilMs) {
  const from = entries[0]?.at_ms ?? job.submitted_at_ms;
  const to = Math.max(untilMs, from + 100, ...entries.map((entry) => entry.at_ms));
  const lanes = lanesOf(job, entries, to);
  const width = Math.max(240, holder.clientWidth);
  const height = TOP + lanes.size * LANE + 22;
  const x = (at) => LABEL + ((at - from) / (to - from)) * (width - LABEL - 14);
  const said = h("p", { class: "note hint", "aria-live": "polite" }, "Point at a mark, or step to it, to read it.");
  const say = (mark) => said.classList.remove("hint") ?? put(said, [h("b", {}, `+${span(mark.at - from)}`), ` ${mark.text}`, h("span", { class: "hint" }, ` ${clock(mark.at)}`)]);
  const picture = s("svg", { class: "timeline", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Timeline; the table of facts below says the same" });
  for (const at of ticks(to - from, width - LABEL)) {
    picture.append(s("line", { class: "grid", x1: x(from + at), x2: x(from + at), y1: TOP, y2: height - 20 }),
      s("text", { class: "axis", x: x(from + at), y: height - 5, "text-anchor": at === 0 ? "start" : "middle" }, at === 0 ? "0" : `+${span(at)}`));
  }
  let row = 0;
  for (const [name, { bars, marks }] of lanes) {
    const y = TOP + row++ * LANE + LANE / 2;
    picture.append(s("line", { class: "lane", x1: LABEL, x2: width, y1: y + LANE / 2, y2: y + LANE / 2 }), s("text", { class: "lane-name", x: 0, y: y + 4 }, name));
    for (const bar of bars) {
      const [left, right] = [x(bar.from), x(bar.to)];
      picture.append(s("rect", { class: `bar ${bar.kind}`, x: left, y: bar.kind === "ran" ? y - 5 : y - 2, height: bar.kind === "ran" ? 10 : 4, width: Math.max(1, right - left), rx: 2 }, s("title", {}, bar.text)));
    }
    let last = { x: -99, step: 0 };
    for (const mark of marks) {
      const left = x(mark.at);
      last = { x: left, step: left - last.x < 9 ? last.step + 1 : 0 }; // what would cover another is moved out of its way
      const lift = [0, -6, 6][last.step % 3];
      picture.append(s("g", { class: `mark ${mark.tone}`, transform: `translate(${left} ${y + lift})`, tabindex: 0, role: "img", "aria-label": `+${span(mark.at - from)} ${mark.text}`,
        focus: () => say(mark), pointerenter: () => say(mark) }, s("circle", { class: "aim", r: 11 }), s("path", { d: SHAPES[mark.shape] })));
    }
  }
  put(holder, [picture, said]);
}

/** Round places on an axis of `length` ms, at least 64 px apart. */
function ticks(length, width) {
  const rough = length / Math.max(2, width / 64);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  return Array.from({ length: Math.floor(length / step) + 1 }, (_, n) => n * step).filter((at) => at < length * 0.97);
}

export function factsTable(entries) {
  const from = entries[0]?.at_ms;
  return h("table", { class: "facts" }, h("thead", {}, h("tr", {}, ["After", "Time", "Fact", "Stands at"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, entries.map((entry) => h("tr", {}, h("td", { class: "num" }, `+${span(entry.at_ms - from)}`), h("td", { class: "num" }, clock(entry.at_ms)),
      h("td", {}, tell(entry)), h("td", { class: "place" }, `${entry.topic}/${entry.partition}@${entry.offset}`)))));
}
