// A form that submits a job. A repeat after a lost answer is the same job: the key changes only after acceptance.
import { ask } from "./api.js";
import { h, put } from "./dom.js";

const MODEL = "backstop.model";
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)),
  (byte) => byte.toString(16).padStart(2, "0")).join("");

/** `session`: the session; without it the form has a field. `taken(job_id)` is called once the job is accepted. */
export function submitForm({ session, taken, fail }) {
  let key = newKey();
  const model = h("input", { name: "model", required: true, maxlength: 128,
    value: localStorage.getItem(MODEL) ?? "gpt-5.2" });
  const input = h("textarea", { name: "input", required: true, rows: 3, placeholder: "The prompt" });
  const inSession = h("input", { name: "session", maxlength: 128, pattern: "[A-Za-z0-9_.:\\-]+", placeholder: "none" });
  const tags = h("input", { name: "tags", placeholder: "none; separated by commas" });
  const button = h("button", { class: "primary" }, "Submit");
  const said = h("p", { class: "hint", role: "status" });

  async function submit(event) {
    event.preventDefault();
    button.disabled = true;
    const body = { request: { model: model.value, input: input.value },
      tags: tags.value.split(",").map((tag) => tag.trim()).filter(Boolean) };
    const chosen = session ?? inSession.value;
    if (chosen) body.session_id = chosen;
    try {
      const { job_id: id } = await ask("/v1/jobs", { method: "POST", body, key });
      localStorage.setItem(MODEL, model.value);
      [key, input.value] = [newKey(), ""];
      put(said, ["Accepted. The job will end with exactly one result. ",
        h("a", { href: `#/jobs/${encodeURIComponent(id)}` }, "Open it")]);
      taken(id);
    } catch (error) {
      if (error.status === 409 || error.status === 422) key = newKey(); // another text is another job
      put(said, error.message);
      if (error.status === 401) fail(error);
    } finally {
      button.disabled = false;
    }
  }

  const field = (label, control, wide) => h("label", { class: wide && "wide" }, h("span", {}, label), control);
  return h("form", { class: "submit", submit, input: () => put(said, null) },
    field("Model", model), session === undefined && field("Session", inSession), field("Tags", tags),
    field("Input", input, true), h("div", { class: "wide actions" }, button, said));
}
