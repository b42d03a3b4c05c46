// The frame around all views: routing, sign-in, keyboard, theme, and the banner.
import { Problem, ask, follow, hasKey, keepKey, onAnswer, setTenant } from "./api.js";
import { costsView } from "./costs.js";
import { h, put } from "./dom.js";
import { healthView } from "./health.js";
import { jobView } from "./job.js";
import { jobsView } from "./jobs.js";
import { deadLettersView } from "./dead_letters.js";
import { addressOf, searchView } from "./search.js";
import { sessionView } from "./session.js";
import { systemView } from "./system.js";
import { webhooksView } from "./webhooks.js";
import { tick } from "./words.js";

const VIEWS = [
  [/^\/jobs$/, "Jobs", jobsView],
  [/^\/jobs\/([^/]+)$/, "Job", jobView],
  [/^\/sessions\/([^/]+)$/, "Session", sessionView],
  [/^\/search$/, "Search", searchView],
  [/^\/dead-letters$/, "Dead letters", deadLettersView],
  [/^\/costs$/, "Costs", costsView],
  [/^\/webhooks$/, "Webhooks", webhooksView],
  [/^\/health$/, "Health", healthView],
  [/^\/system$/, "System", systemView],
];
const TENANT = "[a-z0-9_\\-]{1,64}";
const SAY_AWAY_AFTER_MS = 1_500;
const at = (id) => document.getElementById(id);
const main = at("view");
let [caller, tenant] = [null, null]; // `tenant`: whose objects are shown
let shown = null; // {stop: [functions]}

// --- Views -----------------------------------------------------------------------------------------------------------

function route() {
  const [path, search = ""] = (location.hash.slice(1) || "/jobs").split("?");
  leave();
  if (caller === null) return start();
  for (const [pattern, name, view] of VIEWS) {
    const found = pattern.exec(path);
    if (!found) continue;
    let id;
    try {
      id = found[1] && decodeURIComponent(found[1]);
    } catch {
      break; // not an address of this page
    }
    document.title = `${id ?? name} · Backstop`;
    for (const link of at("nav").children) {
      if (path.startsWith(link.hash.slice(1))) {
        link.setAttribute("aria-current", "page");
        link.scrollIntoView({ block: "nearest", inline: "center" }); // on a phone the bar holds more than it shows
      } else link.removeAttribute("aria-current");
    }
    shown = { stop: [] };
    return put(main, view({ id, query: new URLSearchParams(search), scopes: rights(view), ...handles(shown) }));
  }
  put(main, h("p", { class: "empty" }, "There is nothing at this address. ", h("a", { href: "#/jobs" }, "All jobs")));
}

/** What the key may do in a view. Of another tenant it only reads; the system is that of all tenants. */
function rights(view) {
  if (tenant === caller.tenant || view === systemView) return new Set(caller.scopes);
  return new Set(caller.scopes.filter((scope) => !["submit", "operate"].includes(scope)));
}

/** Whose objects are shown. A key with `admin` may choose. */
function showTenant() {
  tenant = caller.tenant;
  setTenant(null);
  if (!caller.scopes.includes("admin") || caller.development) {
    return put(at("tenant"), caller.development ? "development" : caller.tenant);
  }
  const field = h("input", { value: tenant, size: 12, maxlength: 64, spellcheck: "false", autocomplete: "off",
    pattern: TENANT, "aria-label": "Tenant", title: "Whose jobs are shown", change: () => {
      field.value = field.value.trim() || caller.tenant;
      if (!field.reportValidity()) return; // what is shown stays
      tenant = field.value;
      setTenant(tenant === caller.tenant ? null : tenant);
      route();
    } });
  put(at("tenant"), field);
}

/** The frame's functions for a view. Once the view is left, they do nothing. */
function handles(mine) {
  return {
    onLeave: (stop) => (mine === shown ? mine.stop.push(stop) : stop()),
    fail: (error) => mine === shown && fail(error),
    follow: (path, on) => {
      const stop = follow(path, {
        ...on,
        state: (state) => mine === shown && live(state),
        refused: (error) => mine === shown && fail(error),
      });
      mine.stop.push(stop);
      return () => {
        stop();
        if (mine === shown) live(null);
      };
    },
  };
}

function leave() {
  for (const stop of shown?.stop ?? []) stop();
  shown = null;
  live(null);
  said.refusal = null;
  showBanner();
}

/** Show an error; without a valid key, ask for one. */
function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) console.error(error);
  if (error.status === 401) return signIn(hasKey() ? "This key is not valid (any more)." : null);
  const text = error instanceof Problem ? error.message : "This page has an error. Reload it.";
  if (error.status === 0 || error.status === 503) said.away = text;
  else said.refusal = text;
  showBanner();
}

// The banner above all views: a refusal until the view is left, an outage until it is over.
const said = { refusal: null, away: null };
let [liveState, awayTimer] = [null, null];

function showBanner() {
  const text = said.refusal ?? said.away;
  at("banner").hidden = text === null;
  if (at("banner").textContent !== (text ?? "")) at("banner").textContent = text ?? "";
}

function isBack() {
  if (liveState === "away") return;
  said.away = null;
  showBanner();
}

onAnswer(isBack);

function live(state) {
  liveState = state;
  const sign = at("live");
  sign.dataset.state = state ?? "off";
  put(sign, state === "live" ? "Live" : state === "away" ? "Reconnecting" : "");
  clearTimeout(awayTimer);
  if (state !== "away") return isBack();
  awayTimer = setTimeout(() => {
    said.away = "The live stream is interrupted: this page may be out of date. Reconnecting …";
    showBanner();
  }, SAY_AWAY_AFTER_MS);
}

// --- Signing in ------------------------------------------------------------------------------------------------------

async function start() {
  try {
    caller = await ask("/v1/caller");
  } catch (error) {
    if (error.status === 401) return signIn(hasKey() ? "This key is not valid (any more)." : null);
    fail(error);
    setTimeout(() => caller === null && start(), 1_000);
    return;
  }
  showTenant();
  at("sign-out").hidden = caller.development;
  route();
}

function signIn(why) {
  leave();
  keepKey(null);
  setTenant(null);
  caller = null;
  put(at("tenant"), null);
  at("sign-out").hidden = true;
  const field = h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const enter = (event) => {
    event.preventDefault();
    keepKey(field.value.trim());
    start();
  };
  put(main, h("form", { class: "card sign-in", submit: enter },
    h("h1", {}, "Sign in"),
    why && h("p", { class: "problem", role: "alert" }, why),
    h("label", { for: "key" }, "API key"), field,
    h("p", { class: "hint" }, "The key needs the scope ", h("code", {}, "read"),
      ". It stays in this tab until you close it."),
    h("button", { class: "primary" }, "Sign in"),
    h("p", { class: "hint" }, "No key yet? ",
      h("code", {}, "backstop keys create --tenant NAME --scopes submit,read"))));
  field.focus();
}

at("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = event.target.elements.id.value.trim();
  if (!id || caller === null) return;
  try {
    const { data } = await ask(`/v1/search?${new URLSearchParams({ id })}`);
    const to = data.length === 1 ? addressOf(data[0]) : `#/search?${new URLSearchParams({ id })}`;
    event.target.reset();
    location.hash = to;
  } catch (error) {
    fail(error);
  }
});

at("sign-out").addEventListener("click", () => signIn(null));

// --- Theme, keyboard, time -------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];

function theme(wanted) {
  const name = THEMES.includes(wanted) ? wanted : "auto";
  localStorage.setItem("backstop.theme", name);
  document.documentElement.dataset.theme = name;
  put(at("theme"), { auto: "◐", light: "☀", dark: "☾" }[name]);
  at("theme").setAttribute("aria-label", `Theme: ${name}`);
  at("theme").title = `Theme: ${name}`;
}

theme(localStorage.getItem("backstop.theme"));
at("theme").addEventListener("click", () => {
  theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
});

const ROWS = "[data-row]";
let moves = 0; // moves within the page: without one, "back" would leave the page

function move(step) {
  const rows = [...main.querySelectorAll(ROWS)];
  const from = rows.indexOf(document.activeElement);
  const next = rows[from < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, from + step))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

const KEYS = { j: () => move(1), k: () => move(-1), "/": () => main.querySelector("[data-filter]")?.focus() };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, textarea, select");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (/^#\/[^/]+\/./.test(location.hash)) moves ? history.back() : (location.hash = "#/jobs");
  } else if (!typing && KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

setInterval(tick, 1_000);
window.addEventListener("hashchange", () => {
  moves += 1;
  route();
});
start();
