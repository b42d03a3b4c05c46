// Durations by model, and how ends were found, of the jobs that ended in a period.
import { ask, every } from "./api.js";
import { bars, ecdf, lines } from "./charts.js";
import { money, usd } from "./costs.js";
import { h, put } from "./dom.js";
import { ago, badge, count, now, number, share, span } from "./words.js";

const SPANS = [["3600", "last hour"], ["21600", "last 6 hours"], ["86400", "last day"], ["604800", "last week"]];
const READ_MS = 15_000;
const MODELS_SHOWN = 4;
const PLOTS = [
  ["queued", "Queued", "from submission until the provider accepted it"],
  ["running", "Run", "at the provider, by its own timestamps"],
  ["webhook_lag", "Webhook", "from the end at the provider until the webhook arrived"],
  ["detection", "Seen", "from the end at the provider until Backstop saw it, by webhook or poll"],
];

const ROUND = { 60_000: "minute", 3_600_000: "hour", 86_400_000: "day" };
const NONE_REFUSED = { limited: 0, overloaded: 0, other: 0 };
const NOTHING_SPENT = { cost_usd: "0", attempts: 0, unmeasured: 0, unpriced: 0 };
const unknown = ({ spent }) => (spent ? spent.unmeasured + spent.unpriced : 0);
const ofUnknown = (n) => n > 0 && `${count(n, "attempt")} of unknown cost`;

const COURSES = [
  ["Jobs", "Submitted, ended and failed, each PERIOD", number, [{ name: "submitted", of: (each) => each.submitted },
    { name: "ended", of: (each) => each.ended }, { name: "failed", of: (each) => each.failed }]],
  ["Runs", "How long runs took that ended in each PERIOD", span, [{ name: "p50", of: (each) => each.running_p50_ms },
    { name: "p95", of: (each) => each.running_p95_ms }], true],
  ["Tokens", "Input and output of jobs that ended, each PERIOD", number,
    [{ name: "tokens", of: (each) => each.tokens }]],
  ["Open jobs", "Accepted and not ended, at the end of each PERIOD", number,
    [{ name: "open", of: (each) => each.open }]],
  ["Refused creates", "Creates that the provider refused, each PERIOD", number,
    [{ name: "rate limit (429)", of: (each) => each.refused?.limited ?? null },
      { name: "overloaded", of: (each) => each.refused?.overloaded ?? null },
      { name: "other", of: (each) => each.refused?.other ?? null }]],
  ["Cost", "Of attempts by when the provider took them, each PERIOD", usd,
    [{ name: "known cost", of: ({ spent }) => (spent?.cost_usd === undefined ? null : Number(spent.cost_usd)) }],
    false, (each) => ofUnknown(unknown(each))],
];

/** The stats with a `course` of every period, each with the jobs that were open at its end: from those that are open
    now, back by what was submitted and ended since. Where not all ended jobs are counted it is not known. */
function withOpen(stats, openNow) {
  const { course, since_ms: from, until_ms: to, truncated, webhooks: { period_ms: step } } = stats;
  const by = new Map(course.map((each) => [each.from_ms, each]));
  const none = { submitted: 0, ended: 0, failed: 0, running_p50_ms: null, running_p95_ms: null, tokens: 0,
    refused: NONE_REFUSED, spent: NOTHING_SPENT };
  const whole = [];
  for (let [at, open] = [Math.floor(to / step) * step, openNow]; at > from - step; at -= step) {
    const each = by.get(at) ?? { from_ms: at, ...none };
    whole.unshift({ ...each, open: truncated ? null : Math.max(0, open) });
    open += each.ended - each.submitted;
  }
  return { ...stats, course: whole };
}

export function healthView({ query, onLeave, fail }) {
  const chosen = query.get("since") ?? "3600";
  const body = h("div", {});
  const select = h("select", { "aria-label": "Period", "data-filter": true,
    change: () => (location.hash = `#/health?since=${select.value}`) },
    SPANS.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  let seen = null;

  async function read() {
    try {
      const since = Math.max(0, Math.round(now() - 1000 * Number(chosen)));
      const [stats, { open }] = await Promise.all([ask(`/v1/stats?since=${since}`), ask("/v1/attention")]);
      seen = withOpen(stats, Object.values(open).reduce((sum, n) => sum + n, 0));
      show();
    } catch (error) {
      fail(error);
    }
  }

  const happened = (each) => each.ended || Object.values(each.refused ?? {}).some(Boolean);
  const show = () => seen && put(body, seen.course.some(happened) ? figures(seen)
    : h("p", { class: "empty" }, "No job ended in this time. Choose a longer period above."));
  let width = 0;
  const watcher = new ResizeObserver(() => body.clientWidth !== width && (width = body.clientWidth) && show());
  watcher.observe(body);
  onLeave(() => watcher.disconnect());
  onLeave(every(READ_MS, read));
  return [h("div", { class: "head" }, h("h1", {}, "Health"), h("div", { class: "filters" }, select)), body];

  function figures(stats) {
    const models = stats.models.slice(0, MODELS_SHOWN);
    return [
      tiles(stats),
      over(stats),
      stats.truncated && h("p", { class: "hint" },
        `Only the last ${count(stats.ended, "job")} are counted, since `, ago(stats.since_ms),
        "."),
      h("div", { class: "legend", "aria-hidden": "true" }, models.map((model, n) => h("span", { class: `series s${n}` },
        h("i", {}), model.model))),
      h("div", { class: "plots" }, PLOTS.map(([name, title, meaning]) => plot(name, title, meaning, stats, models))),
      webhooks(stats),
    ];
  }

  /** The course over time: charts, and the same as a table. */
  function over({ course, since_ms: from, until_ms: to, webhooks: { period_ms } }) {
    const doubts = ofUnknown(course.reduce((sum, each) => sum + unknown(each), 0));
    const chart = ([title, meaning, told, series, gaps, doubt]) => h("section", { class: "card plot" },
      h("h2", {}, title), h("p", { class: "hint" }, meaning.replace("PERIOD", ROUND[period_ms] ?? span(period_ms))),
      lines(course, series, { from, to, period_ms, told, gaps, doubt, width: plotWidth(body),
        label: `${title} over time` }),
      h("div", { class: "legend" }, series.map(({ name }, n) => h("span", { class: `series s${n}` }, h("i", {}),
        name)), doubt && doubts && h("span", { class: "key missed" }, h("i", {}), `${doubts}, not in the line`)));
    return h("div", {}, h("div", { class: "plots" }, COURSES.map(chart)),
      h("details", {}, h("summary", {}, "The course as a table"), h("div", { class: "scroll" },
        table(["From", "Submitted", "Ended", "Failed", "Run p50", "Run p95", "Tokens", "Open", "Rate limit (429)",
          "Overloaded", "Other refusals", "Cost", "Of unknown cost"], course.map((each) => [
          new Date(each.from_ms).toLocaleString("en-GB"), number(each.submitted), number(each.ended),
          number(each.failed), each.running_p50_ms === null ? "–" : span(each.running_p50_ms),
          each.running_p95_ms === null ? "–" : span(each.running_p95_ms), number(each.tokens),
          each.open === null ? "–" : number(each.open),
          ...["limited", "overloaded", "other"].map((kind) => (each.refused ? number(each.refused[kind]) : "–")),
          each.spent ? money(each.spent.cost_usd) : "–", each.spent ? number(unknown(each)) : "–"])))));
  }

  function plot(name, title, meaning, stats, models) {
    const rows = stats.models.filter((model) => model[name].n);
    return h("section", { class: "card plot" }, h("h2", {}, title), h("p", { class: "hint" }, meaning),
      rows.length ? [ecdf(models.map((model) => model[name]), stats.edges_ms, plotWidth(body),
        `${title}: share of jobs within a time`), quantiles(rows, name)]
        : h("p", { class: "empty" }, "Nothing measured in this time."));
  }

  function webhooks({ webhooks: found, since_ms: from, until_ms: to }) {
    const ends = found.webhook + found.poll;
    if (!ends) return null;
    return h("section", { class: "card" }, h("h2", {}, "How ends were found"),
      h("p", { class: "hint" },
        `Each bar covers ${span(found.period_ms)}. A webhook counts as missed when a poll found the end first: `,
        `${share(found.missed, ends)} of ${count(ends, "end")}.`),
      h("div", { class: "legend" }, h("span", { class: "key webhook" }, h("i", {}), "by webhook"),
        h("span", { class: "key poll" }, h("i", {}), "by a poll, webhook arrived"),
        h("span", { class: "key missed" }, h("i", {}), "by a poll, webhook missed")),
      bars(found, from, to, body.clientWidth - 34),
      h("details", {}, h("summary", {}, "As a table"), h("div", { class: "scroll" },
        table(["From", "By webhook", "By a poll", "Missed"],
        found.periods.map((p) => [new Date(p.from_ms).toLocaleString("en-GB"), p.webhook, p.poll, p.missed])))));
  }
}

const plotWidth = (body) => (body.clientWidth > 760 ? (body.clientWidth - 14) / 2 : body.clientWidth) - 34;

function tiles(stats) {
  const { webhooks: found, outcomes } = stats;
  const longest = (name, quantile) => Math.max(...stats.models.map((model) => model[name][quantile] ?? -1));
  const time = (name, quantile) => (longest(name, quantile) < 0 ? "–" : span(longest(name, quantile)));
  return h("ul", { class: "tiles" }, [
    [number(stats.ended), "jobs ended"],
    [share(outcomes.completed ?? 0, stats.ended), [badge("completed")]],
    [time("running", "p50_ms"), "median run, slowest model"],
    [time("detection", "p99_ms"), "p99 until seen, slowest model"],
    [share(found.missed, found.webhook + found.poll), "webhooks missed"],
  ].map(([value, name]) => h("li", {}, h("b", {}, value), h("span", {}, name))));
}

const quantiles = (models, name) => h("div", { class: "scroll" }, table(["Model", "Jobs", "p50", "p90", "p99"],
  models.map((model) => [model.model, model[name].n, span(model[name].p50_ms), span(model[name].p90_ms),
    span(model[name].p99_ms)])));

const table = (head, rows) => h("table", {}, h("thead", {}, h("tr", {},
  head.map((name) => h("th", { scope: "col" }, name)))),
  h("tbody", {}, rows.map(([first, ...cells]) => h("tr", {}, h("th", { scope: "row" }, first),
    cells.map((cell) => h("td", { class: "num" }, cell))))));
