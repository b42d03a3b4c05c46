// The public API with the user's key. The key stays in this tab (sessionStorage) and is in no URL.
import { setClock } from "./words.js";

const KEY = "backstop.key";
const AWAY_MS_MAX = 10_000;

/** An error answer, with the text of its problem document. */
export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

const FOLLOW_MS = 5_000;
let ofTenant = null;

/** Read another tenant's objects from now on (keys with `admin`); null: one's own. */
export const setTenant = (tenant) => (ofTenant = tenant);

let answered = () => {};

/** `listener` is called with each successful answer. */
export const onAnswer = (listener) => (answered = listener);
export const keepKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** JSON of `path`; throws a Problem. `key` makes a submission repeatable. */
export async function ask(path, { method = "GET", body, signal, key } = {}) {
  const headers = {};
  if (hasKey()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers["Idempotency-Key"] = key;
  if (ofTenant !== null) headers["Backstop-Tenant"] = ofTenant;
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "away", "Backstop does not answer. Accepted jobs continue; this page tries again.");
  }
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw new Problem(answer.status, said?.code ?? "unknown",
    said?.detail ?? `It answered ${answer.status}.`);
  if (said?.object === "attention") setClock(said.at_ms);
  answered();
  return said;
}

export const jobPath = (id, rest = "") => `/v1/jobs/${encodeURIComponent(id)}${rest}`;
export const sessionPath = (id, rest = "") => `/v1/sessions/${encodeURIComponent(id)}${rest}`;

/**
 * Follow a live stream until the returned function is called. Each connection uses its own ticket, and continues after
 * the last received event. Calls `on.job(job)`; `on.gap()` when events were missed and the view must be read again;
 * `on.state("live" | "away")`; `on.refused(problem)` when the key is no longer valid.
 */
export function follow(path, on) {
  if (ofTenant !== null) return every(FOLLOW_MS, on.gap); // a ticket is for the key's own tenant
  let [source, last, timer, tries, ended] = [null, null, null, 0, false];

  async function open() {
    try {
      const { ticket } = await ask("/v1/tickets", { method: "POST", body: { path } });
      if (ended) return;
      source = new EventSource(`${path}?${new URLSearchParams(last ? { ticket, last_event_id: last } : { ticket })}`);
    } catch (error) {
      return error.status === 401 ? on.refused(error) : again();
    }
    source.addEventListener("open", () => {
      tries = 0;
      on.state("live");
    });
    source.addEventListener("job", (event) => {
      last = event.lastEventId;
      on.job(JSON.parse(event.data));
    });
    source.addEventListener("gap", (event) => {
      last = event.lastEventId;
      on.gap();
    });
    source.addEventListener("error", again); // EventSource's own retry would send the same ticket, which is used up
  }

  function again() {
    source?.close();
    if (ended) return;
    on.state("away");
    clearTimeout(timer);
    timer = setTimeout(open, Math.min(AWAY_MS_MAX, 250 * 2 ** tries++) * (0.75 + Math.random() / 2));
  }

  open();
  return () => {
    ended = true;
    clearTimeout(timer);
    source?.close();
  };
}

/** Call `work` now and every `ms` while the page is visible; failures are ignored. Returns a function that stops it. */
export function every(ms, work) {
  const turn = () => !document.hidden && Promise.resolve(work()).catch(() => {});
  turn();
  const timer = setInterval(turn, ms);
  document.addEventListener("visibilitychange", turn);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", turn);
  };
}
