// The processes of this Backstop, the partitions that they hold, closed lanes, and what holds jobs up.
import { ask, every } from "./api.js";
import { h, put } from "./dom.js";
import { SYSTEM, findingCards } from "./findings.js";
import { ago, badge, capital, count, number, span } from "./words.js";

const STATUS_MS = 3_000;

export function systemView({ scopes, onLeave, fail }) {
  if (!scopes.has("operate")) {
    return h("p", { class: "empty" }, "This page concerns all tenants: it needs a key with the scope ",
      h("code", {}, "operate"), ".");
  }
  const body = h("div", { class: "system" });
  onLeave(every(STATUS_MS, async () => {
    try {
      const [told, seen] = await Promise.all([ask("/v1/status"),
        scopes.has("read") ? ask("/v1/attention").catch(() => null) : null]);
      put(body, content(told, seen));
    } catch (error) {
      fail(error);
    }
  }));
  return [h("div", { class: "head" }, h("h1", {}, "System")), body];
}

function content(told, seen) {
  const waits = told.partitions.filter((each) => each.lag || !each.holder);
  return [
    told.wrong.length
      ? h("ul", { class: "findings" }, told.wrong.map((text) => h("li",
        { class: "finding", "data-finding": "jobs_held" }, h("strong", {}, capital(text)))))
      : h("p", { class: "calm" }, badge("completed").firstChild, "Nothing holds jobs up"),
    seen?.findings.some(beyond) && h("section", { "aria-label": "Needs attention" },
      findingCards({ ...seen, findings: seen.findings.filter(beyond) })),
    h("ul", { class: "tiles" }, tiles(told).map(([value, name]) => h("li", {}, h("b", {}, value),
      h("span", {}, name)))),
    h("section", { class: "card" }, h("h2", {}, "Processes"),
      scroll(["Process", "Version", "Parts", "Partitions", "Address"], told.processes.map((each) => [each.name,
        each.version ?? "–", each.parts.join(", "), h("span", { class: "place" }, byTopic(each.partitions)),
        each.address ?? "–"]))),
    told.lanes.length > 0 && h("section", { class: "card" }, h("h2", {}, "Closed lanes"),
      scroll(["Model", "Closed", "Next probe", "Because"], told.lanes.map((lane) => [lane.model, ago(lane.since_ms),
        ago(lane.probe_at_ms), `${lane.code} ${lane.message}`]))),
    h("section", { class: "card" }, h("h2", {}, "Partitions"),
      waits.length ? null : h("p", { class: "hint" }, "All of them are held, and read to their end."),
      h("details", { open: waits.length > 0 }, h("summary", {}, `All ${count(told.partitions.length, "partition")}`),
        scroll(["Topic", "Read by", "Holder", "Lag", "Last moved"], [...waits, ...told.partitions.filter((each) =>
          !waits.includes(each))].map((each) => [`${each.topic}/${each.partition}`, each.group,
          each.holder ?? ["none since ", ago(each.unassigned_since_ms)], number(each.lag), ago(each.moved_at_ms)])))),
  ];
}

// Findings that are told as sentences above already.
const beyond = (found) => !SYSTEM.includes(found.code);

const tiles = (told) => [
  [told.broker.answers ? number(told.broker.brokers) : "none",
    told.broker.brokers === 1 ? "broker answers" : "brokers answer"],
  [number(told.processes.length), "processes"],
  [number(told.readmodel.lag), told.readmodel.delay_ms ? `records behind, still for ${span(told.readmodel.delay_ms)}`
    : "records that the read model is behind"],
  [told.polls_per_s.toFixed(1), "polls per second"],
  [number(told.lanes.length), "closed lanes"],
];

/** Partitions with their topic named once: `jobs/0 1 · polls/0 1`. */
function byTopic(partitions) {
  const found = new Map();
  for (const each of partitions) {
    const [topic, number] = each.split("/");
    found.set(topic, [...(found.get(topic) ?? []), number]);
  }
  return [...found].map(([topic, numbers]) => h("span", { class: "topic" }, `${topic}/${numbers.join(" ")}`));
}

const scroll = (head, rows) => h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {},
  head.map((name) => h("th", { scope: "col" }, name)))),
h("tbody", {}, rows.map(([first, ...cells]) => h("tr", {}, h("th", { scope: "row" }, first),
  cells.map((cell) => h("td", {}, cell)))))));
