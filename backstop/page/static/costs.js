// What attempts used and cost, by model, tag, day or outcome. Sums and prices are the server's.
import { ask, every } from "./api.js";
import { h, put } from "./dom.js";
import { count, now, number, share } from "./words.js";

const DAY_MS = 86_400_000;
const READ_MS = 30_000;
const PERIODS = [["1", "today"], ["7", "last 7 days"], ["30", "last 30 days"], ["90", "last 90 days"]];
const GROUPS = [["model", "By model"], ["asked_model", "By model asked for"], ["tag", "By tag"], ["day", "By day"],
  ["outcome", "By outcome"], ["service_tier", "By tier"], ["window", "By window"], ["cache_key", "By cache key"]];
const NAMELESS = { tag: "(no tag)", model: "(not known yet)", asked_model: "(not known)",
  service_tier: "(not told)", window: "(none)", cache_key: "(no key)" };

export function costsView({ query, onLeave, fail }) {
  const by = GROUPS.some(([name]) => name === query.get("by")) ? query.get("by") : "model";
  const days = PERIODS.some(([value]) => value === query.get("days")) ? query.get("days") : "30";
  const body = h("div", {});
  const go = () => (location.hash = `#/costs?${new URLSearchParams({ by: groups.value, days: period.value })}`);
  const choice = (name, options, chosen) => h("select", { "aria-label": name, "data-filter": true, change: go },
    options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  const [groups, period] = [choice("Groups", GROUPS, by), choice("Period", PERIODS, days)];

  async function read() {
    const since = new Date(now() - (Number(days) - 1) * DAY_MS).toISOString().slice(0, 10);
    try {
      const costs = await ask(`/v1/costs?${new URLSearchParams({ by, since })}`);
      put(body, [budgetsTable(costs.budgets), figures(costs, by)]);
    } catch (error) {
      fail(error);
    }
  }

  onLeave(every(READ_MS, read));
  return [h("div", { class: "head" }, h("h1", {}, "Costs"), h("div", { class: "filters" }, groups, period)), body];
}

/** An amount of dollars, with the digits that matter. */
export function usd(amount) {
  const digits = amount >= 1 || amount === 0 ? 2 : Math.min(8, 1 - Math.floor(Math.log10(amount)));
  return `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: Math.max(2, digits) })}`;
}

/** The same, exact in the title. */
export const money = (told) => (told === undefined ? h("data", { class: "hint" }, "unknown")
  : h("data", { value: told, title: `$${told}` }, usd(Number(told))));

/** The budgets of the tenant as they stand now, whatever days are chosen. */
function budgetsTable(budgets) {
  if (!budgets?.length) return null;
  const state = (budget) => [budget.near && `alarm: ${budget.warn_percent} % are spent`,
    budget.used_up ? "creates are held" : budget.stops && "stops creates when used up",
    budget.unknown > 0 && `${count(budget.unknown, "attempt")} of unknown cost`].filter(Boolean).join("; ");
  return h("section", { class: "card" }, h("div", { class: "scroll" }, h("table", { class: "costs budgets" },
    h("thead", {}, h("tr", {}, ["Budget", "Spent", "Reserved", "Limit", "State"].map((name) =>
      h("th", { scope: "col" }, name)))),
    h("tbody", {}, budgets.map((budget) => h("tr", {},
      h("th", { scope: "row" }, `per ${budget.per}, since ${budget.since}`),
      [money(budget.spent_usd), money(budget.reserved_usd), money(budget.limit_usd), state(budget)].map((cell) =>
        h("td", {}, cell))))))));
}

function figures({ total, data, by: [by], truncated, prices_as_of: asOf, since, until }, group) {
  if (!total.attempts) return h("p", { class: "empty" }, "No attempt reached the provider in this time.");
  return [
    h("ul", { class: "tiles" }, [
      [money(total.cost_usd), "of attempts whose cost is known"],
      [number(total.attempts), "attempts"],
      [share(total.cached_tokens, total.input_tokens), "of the input came from the cache"],
      [number(total.unmeasured), "without known usage"],
      [number(total.unpriced), "without a price"],
    ].map(([value, name]) => h("li", {}, h("b", {}, value), h("span", {}, name)))),
    h("section", { class: "card" }, h("div", { class: "scroll" }, h("table", { class: "costs" },
      h("thead", {}, h("tr", {}, [GROUPS.find(([name]) => name === group)[1].slice(3), "Cost", "Attempts", "Input",
        "Cached", "Output", "Reasoning", "No usage", "No price"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, data.map((row) => h("tr", {},
        h("th", { scope: "row" }, row[by] || NAMELESS[by] || "–",
          row.asked_models && h("span", { class: "hint" }, ` asked for: ${row.asked_models.join(", ")}`)),
        [money(row.cost_usd), number(row.attempts), number(row.input_tokens),
          share(row.cached_tokens, row.input_tokens), number(row.output_tokens), number(row.reasoning_tokens),
          number(row.unmeasured), number(row.unpriced)].map((cell) => h("td", { class: "num" }, cell))))))),
    h("p", { class: "hint" }, `${since} to ${until} (UTC), prices of ${asOf}. `,
      by === "tag" && "A job counts once for each of its tags. ",
      truncated && `Only the ${count(data.length, "dearest group")} are shown. `,
      "As a file: ", h("code", {}, `backstop costs --by ${by} --csv`))),
  ];
}
