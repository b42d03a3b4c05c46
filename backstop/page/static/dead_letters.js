// Dead letters, read-only: decisions are made with `backstop dlq`, which records their author and reason.
import { ask } from "./api.js";
import { h, put } from "./dom.js";
import { ago, size } from "./words.js";

export function deadLettersView({ query, scopes, onLeave, fail }) {
  const all = query.get("state") === "all";
  const list = h("ol", { class: "rows letters", "aria-label": "Dead letters, newest first" });
  const empty = h("div", {});
  const older = h("button", { class: "quiet more", type: "button", hidden: true,
    click: () => read(older.dataset.cursor) }, "Show older dead letters");
  const reading = new AbortController();
  onLeave(() => reading.abort());

  async function read(cursor) {
    const asked = new URLSearchParams({ state: all ? "all" : "open", ...(cursor && { cursor }) });
    try {
      const page = await ask(`/v1/dead-letters?${asked}`, { signal: reading.signal });
      list.append(...page.data.map(deadLetterRow));
      older.hidden = !page.next_cursor;
      if (page.next_cursor) older.dataset.cursor = page.next_cursor;
      put(empty, list.childElementCount ? null : h("p", { class: "empty" },
        all ? "No record was ever set aside." : "No dead letter needs a decision."));
    } catch (error) {
      fail(error);
    }
  }

  read();
  const tab = (text, href, here) => h("a", { class: "tab", href, "aria-current": here && "page" }, text);
  return [
    h("div", { class: "head" }, h("h1", {}, "Dead letters"),
      h("div", { class: "tabs" }, tab("Open", "#/dead-letters", !all), tab("All", "#/dead-letters?state=all", all))),
    h("p", { class: "hint" }, "Decide with ", h("code", {}, "backstop dlq show | retry | drop ID"), ".",
      !scopes.has("operate") && " A key with the scope operate also sees the beginning of each record."),
    list, empty, older,
  ];
}

function deadLetterRow(letter) {
  const { topic, partition, offset } = letter.origin ?? {};
  const origin = topic === undefined ? "over HTTP" : `${topic}/${partition}@${offset}`;
  return h("li", { class: "letter", "data-letter": letter.id }, h("details", {},
    h("summary", { "data-row": true }, h("span", { class: `reason ${letter.resolution ? "still" : "bad"}` },
      letter.reason.replaceAll("_", " ")),
      h("span", { class: "origin id" }, origin), h("span", { class: "detail" }, letter.detail),
        h("span", { class: "when" }, ago(letter.at_ms))),
    h("dl", { class: "summary" }, [
      ["Id", h("code", {}, letter.id)], ["Set aside by", letter.component], ["Key", letter.key],
        ["Tenant", letter.tenant ?? "unknown"],
      ["Size", letter.size_bytes !== undefined && size(letter.size_bytes)],
        ["Decision", letter.resolution ?? "none yet"],
    ].filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    letter.preview && h("pre", { class: "output" }, letter.preview)));
}
