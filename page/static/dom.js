// Nodes, never markup: whatever a caller, a provider or a stranger wrote gets in as text, and can only be text.
const SVG = "http://www.w3.org/2000/svg";

export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  put(node, children, false);
  return node;
}

/** Let `node` hold `children` (texts, nodes, lists of both; nothing where nothing is). */
export function put(node, children, instead = true) {
  const wanted = [children].flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  if (instead) node.replaceChildren(...wanted);
  else node.append(...wanted);
  return node;
}
