// Draws /openapi.json: each operation with its parameters, body and answers, then each schema.
import { h, put } from "./dom.js";

const METHODS = ["get", "post", "patch", "put", "delete"];
const main = document.getElementById("view");
let doc = {};

/** What a reference names; anything else as it is. */
const resolved = (one) => (one.$ref ? one.$ref.split("/").slice(1).reduce((at, name) => at[name], doc) : one);

async function draw() {
  try {
    const answer = await fetch("/openapi.json", { credentials: "omit" });
    if (!answer.ok) throw new Error(`it answered ${answer.status}`);
    const api = doc = await answer.json();
    put(main, [
      h("h1", {}, `${api.info.title} ${api.info.version}`),
      h("p", { class: "says" }, api.info.description),
      h("section", { class: "card api" }, h("h2", {}, "Operations"), operations(api.paths)),
      h("section", { class: "card api" }, h("h2", {}, "Schemas"), schemas(api.components?.schemas ?? {})),
    ]);
    open();
  } catch (error) {
    put(main, h("p", { class: "problem", role: "alert" }, `/openapi.json could not be read: ${error.message}`));
  }
}

const operations = (paths) => Object.entries(paths).flatMap(([path, item]) =>
  METHODS.filter((method) => item[method]).map((method) => operation(method, path, item[method])));

function operation(method, path, told) {
  const [first, ...rest] = (told.description ?? told.summary ?? "").split("\n");
  return h("details", { id: told.operationId },
    h("summary", {}, h("span", { class: `method ${method}` }, method.toUpperCase()), h("span", { class: "path" }, path),
      h("span", { class: "hint" }, told.summary ?? first)),
    h("div", { class: "of" },
      h("p", { class: "says" }, told.summary === first ? rest.join("\n").trim() : told.description),
      told["x-scope"] && h("p", {}, "Scope: ", h("code", {}, told["x-scope"])),
      told.parameters && [h("h3", {}, "Parameters"),
        table(["Name", "In", "Type", ""], told.parameters.map(resolved).map((one) =>
        [[h("code", {}, one.name), one.required && " *"], one.in, type(one.schema), one.description ?? ""]))],
      told.requestBody && [h("h3", {}, "Body"), content(told.requestBody.content)],
      h("h3", {}, "Answers"),
      table(["Status", "", ""], Object.entries(told.responses).map(([status, one]) => {
        const answer = resolved(one);
        return [status, answer.description, content(answer.content)];
      }))));
}

const content = (kinds) => Object.entries(kinds ?? {}).map(([kind, { schema }]) =>
  h("div", {}, h("span", { class: "hint" }, `${kind} `), schema ? type(schema) : ""));

const schemas = (all) => Object.entries(all).map(([name, schema]) => h("details", { id: name },
  h("summary", {}, h("span", { class: "path" }, name), h("span", { class: "hint" },
    (schema.description ?? "").split("\n")[0])),
  h("div", { class: "of" }, schema.properties
    ? table(["Field", "Type", ""], Object.entries(schema.properties).map(([field, one]) =>
      [[h("code", {}, field), (schema.required ?? []).includes(field) && " *"], type(one), one.description ?? ""]))
    : h("p", {}, type(schema)))));

/** The type of a schema: names of other schemas are links to them. */
function type(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return h("a", { href: `#${name}` }, name);
  }
  const several = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (several) return several.flatMap((one, index) => (index ? [" | ", type(one)] : [type(one)]));
  if (schema.enum) return h("code", {}, schema.enum.map((value) => JSON.stringify(value)).join(" | "));
  if (schema.const !== undefined) return h("code", {}, JSON.stringify(schema.const));
  if (schema.type === "array") return [type(schema.items ?? {}), "[]"];
  const limits = [["minimum", "≥ "], ["maximum", "≤ "], ["maxLength", "chars ≤ "], ["pattern", ""]]
    .filter(([name]) => schema[name] !== undefined).map(([name, sign]) => `${sign}${schema[name]}`);
  return h("code", {}, [schema.type ?? "any", ...limits].join(" "));
}

const table = (head, rows) => h("div", { class: "scroll" }, h("table", {},
  h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))),
  h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell)))))));

/** Open what the address names. */
function open() {
  const wanted = document.getElementById(location.hash.slice(1));
  if (!wanted) return;
  wanted.open = true;
  wanted.scrollIntoView();
}

window.addEventListener("hashchange", open);
draw();
