// Makes nodes, never markup: text of callers, the provider or foreign writers stays text.
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

// Unprintable characters (control characters, direction marks) are shown by their number, so that no text looks like
// another. Line ends, tabs and the joiners that some scripts need stay.
const UNPRINTABLE = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;
const shown = (child) => (child instanceof Node ? child
  : String(child).replace(UNPRINTABLE, (char) => `\\u${char.codePointAt(0).toString(16).padStart(4, "0")}`));

/** Replace the content of `node` by `children`: texts, nodes, lists of both; null is skipped. */
export function put(node, children, instead = true) {
  const wanted = [children].flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map(shown);
  if (instead) node.replaceChildren(...wanted);
  else node.append(...wanted);
  return node;
}
