// Outgoing webhooks: the tenant's endpoints, a test of each, and events sent again.
import { ask } from "./api.js";
import { h, put } from "./dom.js";
import { ago, now } from "./words.js";

const PATH = "/v1/webhook_endpoints";
const SPANS = [["3600", "of the last hour"], ["86400", "of the last day"], ["604800", "of the last week"]];

export function webhooksView({ scopes, fail }) {
  const list = h("div", {});
  const may = scopes.has("operate");

  async function read() {
    try {
      const { data } = await ask(PATH);
      put(list, data.length ? data.map(endpoint) : h("p", { class: "empty" },
        "No endpoint is registered. Register one with ", h("code", {}, "backstop webhooks add https://…"), "."));
    } catch (error) {
      if (error.status !== 404) return fail(error);
      put(list, h("p", { class: "empty" }, "Outgoing webhooks are off: set ",
        h("code", {}, "BACKSTOP_OUTGOING_KEYS"), "."));
    }
  }

  function endpoint(each) {
    const told = h("p", { class: "hint", role: "status" });
    const act = (path, body, words) => async (event) => {
      event.preventDefault();
      try {
        await ask(`${PATH}/${each.id}${path}`, { method: "POST", body: body() });
        words === null ? read() : put(told, words);
      } catch (error) {
        put(told, error.message);
      }
    };
    const job = h("input", { type: "search", placeholder: "job id", size: 18,
      "aria-label": "Job whose event is sent again" });
    const since = h("select", { "aria-label": "Period whose events are sent again" },
      SPANS.map(([value, text]) => h("option", { value }, text)));
    const resent = "Accepted: the events are sent again, each under its first webhook-id.";
    return h("section", { class: "card endpoint", "data-endpoint": each.id },
      h("h2", {}, each.name || each.url),
      h("dl", { class: "summary" }, [
        ["Address", each.url], ["Id", h("code", {}, each.id)], ["Events", each.event_types.join(", ")],
        ["Secret", h("code", {}, each.signing_secret_hint)], ["Registered", ago(1000 * each.created_at)],
        ["State", each.enabled ? "enabled" : `disabled: ${each.disabled_because ?? "by an operator"}`],
      ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
      may && h("div", { class: "actions" },
        h("button", { class: "quiet", type: "button", click: act("", () => ({ enabled: !each.enabled }), null) },
          each.enabled ? "Disable" : "Enable"),
        h("button", { class: "quiet", type: "button", disabled: !each.enabled,
          click: act("/test", () => ({}), "Accepted: one event about a response that does not exist.") },
        "Send a test")),
      may && each.enabled && h("form", { class: "again", submit: (event) => (job.value.trim()
        ? act("/resend", () => ({ job_id: job.value.trim() }), resent)(event) : event.preventDefault()) },
      h("span", {}, "Send again the event of"), job, h("button", { class: "quiet" }, "Send again")),
      may && each.enabled && h("form", { class: "again",
        submit: act("/resend", () => ({ since_ms: Math.round(now() - 1000 * Number(since.value)) }), resent) },
      h("span", {}, "or all events"), since, h("button", { class: "quiet" }, "Send all again")),
      told,
      h("p", { class: "hint" }, "Outcomes of deliveries: ",
        h("code", {}, `backstop webhooks deliveries ${each.id}`)));
  }

  read();
  return [h("div", { class: "head" }, h("h1", {}, "Webhooks")), list];
}
