// Dead letters, and decisions about them: first the plan, then with a reason the deed.
import { ask } from "./api.js";
import { h, put } from "./dom.js";
import { ago, capital, size } from "./words.js";

const WORDS = { retry: ["Put back", "put back on its topic, unchanged"], drop: ["Drop", "dropped"] };

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
      list.append(...page.data.map((letter) => deadLetterRow(letter, scopes)));
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
    h("p", { class: "hint" }, scopes.has("operate")
      ? ["Open one to decide about it. Many at once: ", h("code", {}, "backstop dlq retry | drop --reason …"), "."]
      : "A key with the scope operate sees the beginning of each record, and decides about it."),
    list, empty, older,
  ];
}

function deadLetterRow(letter, scopes) {
  const { topic, partition, offset } = letter.origin ?? {};
  const origin = topic === undefined ? "over HTTP" : `${topic}/${partition}@${offset}`;
  return h("li", { class: "letter", "data-letter": letter.id }, h("details", {},
    h("summary", { "data-row": true }, h("span", { class: `reason ${letter.resolution ? "still" : "bad"}` },
      letter.reason.replaceAll("_", " ")),
      h("span", { class: "origin id" }, origin), h("span", { class: "detail" }, letter.detail),
        h("span", { class: "when" }, ago(letter.at_ms))),
    h("dl", { class: "summary" }, [
      ["Id", h("code", {}, letter.id)], ["Refused by", letter.component], ["Key", letter.key],
        ["Tenant", letter.tenant ?? "unknown"],
      ["Size", letter.size_bytes !== undefined && size(letter.size_bytes)],
        ["Decision", letter.resolution ?? "none yet"],
    ].filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    letter.preview && h("pre", { class: "output" }, letter.preview),
    scopes.has("operate") && !letter.resolution && decisions(letter)));
}

/** Two buttons that ask for the plan; the plan has a field for the reason, and the button that executes it. */
function decisions(letter) {
  const body = h("div", { class: "decide" });
  const send = (decision, more) => ask("/v1/dead-letters/decide", { method: "POST",
    body: { ids: [letter.id], decision, ...more } });
  const buttons = () => h("div", { class: "actions" }, Object.entries(WORDS).map(([decision, [words]]) =>
    h("button", { class: "quiet", type: "button", click: () => plan(decision) }, words)));
  const problem = (error) => put(body, [buttons(), h("p", { class: "problem", role: "alert" }, error.message)]);

  async function plan(decision) {
    try {
      const { data: [found], left_out: [left] } = await send(decision, {});
      if (!found) return problem({ message: `Nothing to do: ${left.because}.` });
      const why = h("input", { required: true, maxlength: 300, placeholder: "why; it is kept with the decision",
        "aria-label": "Reason" });
      const by = h("input", { maxlength: 100, placeholder: "your name", "aria-label": "Author" });
      put(body, h("form", { submit: (event) => execute(event, decision, why.value, by.value.trim()) },
        h("p", { role: "status" }, h("b", {}, "Plan: "), `the record is ${WORDS[decision][1]}`,
          found.topic && [" (", h("code", {}, found.topic), ")"], ". It can be read now: ", found.reads_now, "."),
        h("div", { class: "again" }, why, by, h("button", { class: "primary" }, `${WORDS[decision][0]} now`),
          h("button", { class: "quiet", type: "button", click: () => put(body, buttons()) }, "Leave it"))));
      why.focus();
    } catch (error) {
      problem(error);
    }
  }

  async function execute(event, decision, why, by) {
    event.preventDefault();
    event.submitter.disabled = true;
    try {
      const { executed, left_out: [left] } = await send(decision, { execute: true, why, ...(by && { by }) });
      if (!executed) return problem({ message: `Nothing was done: ${left.because}.` });
      put(body, h("p", { role: "status" }, `${capital(WORDS[decision][1])}: ${why}`));
    } catch (error) {
      problem(error);
    }
  }

  return put(body, buttons());
}
