// What has an id, or an id that begins so: jobs, responses of the provider, sessions.
import { ask } from "./api.js";
import { h, put } from "./dom.js";
import { jobRow } from "./jobs.js";

export const addressOf = (hit) => (hit.kind === "session" ? `#/sessions/${encodeURIComponent(hit.session_id)}`
  : `#/jobs/${encodeURIComponent(hit.job.job_id)}`);

export function searchView({ query, fail }) {
  const id = query.get("id") ?? "";
  const list = h("div", {});
  ask(`/v1/search?${new URLSearchParams({ id })}`).then(({ data }) => put(list, hits(id, data)), fail);
  return [h("div", { class: "head" }, h("h1", {}, "Search")), list];
}

function hits(id, data) {
  if (!data.length) return h("p", { class: "empty" }, `No job, response or session of this tenant has the id ${id}.`);
  const [jobs, sessions] = [data.filter((hit) => hit.job), data.filter((hit) => hit.kind === "session")];
  return [
    sessions.map((hit) => h("p", {}, "Session ", h("a", { href: addressOf(hit) }, hit.session_id))),
    h("ol", { class: "rows" }, jobs.map((hit) => jobRow(hit.job).node)),
  ];
}
