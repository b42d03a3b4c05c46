// Plots. Series also differ by dash, parts of a bar by pattern; a table beside each has the same content.
import { s } from "./dom.js";
import { span } from "./words.js";

const [LEFT, BOTTOM, TOP] = [50, 20, 8];
const MARKS = [100, 1_000, 10_000, 60_000, 600_000, 3_600_000];

/** Cumulative share by duration for each of `series` (counts between `edges`), on a logarithmic axis. */
export function ecdf(series, edges, width, label) {
  const height = 190;
  const used = Math.max(...series.map(({ counts }) => counts.findLastIndex((count) => count > 0)), 4);
  const least = Math.min(...series.map(({ counts, n }) => (n ? counts.findIndex((count) => count > 0) : edges.length)),
    used - 4);
  const [from, to] = [Math.log(edges[Math.max(0, least)] / 1.5), Math.log(edges[Math.min(used, edges.length - 1)])];
  const x = (ms) => LEFT + ((Math.log(ms) - from) / (to - from)) * (width - LEFT - 8);
  const y = (part) => TOP + (1 - part) * (height - TOP - BOTTOM);
  const picture = s("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": label });
  for (const part of [0, 0.5, 0.9, 1]) {
    picture.append(s("line", { class: "grid", x1: LEFT, x2: width - 8, y1: y(part), y2: y(part) }),
      s("text", { class: "axis", x: LEFT - 6, y: y(part) + 4, "text-anchor": "end" }, `${100 * part} %`));
  }
  let last = -99;
  for (const ms of MARKS.flatMap((mark) => [mark, 3 * mark]).sort((a, b) => a - b)) {
    if (Math.log(ms) < from || Math.log(ms) > to || x(ms) - last < 44) continue;
    last = x(ms);
    picture.append(s("line", { class: "grid", x1: x(ms), x2: x(ms), y1: TOP, y2: height - BOTTOM }),
      s("text", { class: "axis", x: x(ms), y: height - 5, "text-anchor": "middle" }, span(ms)));
  }
  series.forEach(({ counts, n }, number) => {
    if (!n) return;
    let below = 0;
    let path = "";
    for (let edge = 0; edge <= Math.min(used, edges.length - 1); edge++) {
      if (Math.log(edges[edge]) < from) continue;
      if (!path) path = `M${Math.max(LEFT, x(edges[edge] / 1.5))} ${y(below / n)}`;
      below += counts[edge];
      path += `L${x(edges[edge])} ${y(below / n)}`;
    }
    picture.append(s("path", { class: `line s${number}`, d: path }));
  });
  return picture;
}

const hatched = (id) => s("defs", {}, s("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse",
  patternTransform: "rotate(45)" },
  s("rect", { class: "missed-ground", width: 6, height: 6 }),
  s("rect", { class: "missed-line", width: 2.5, height: 6 })));

/** Ends by period: by webhook, by a poll with a webhook, by a poll without. */
export function bars(found, from, to, width) {
  const height = 150;
  const most = Math.max(...found.periods.map((period) => period.webhook + period.poll), 1);
  const first = Math.floor(from / found.period_ms) * found.period_ms;
  const periods = Math.max(1, Math.ceil((to - first) / found.period_ms));
  const step = (width - LEFT - 8) / periods;
  const tall = (n) => (n / most) * (height - TOP - BOTTOM);
  const picture = s("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "Ends by how they were found, over time" });
  picture.append(hatched("missed"));
  for (const part of [0, most]) {
    picture.append(s("line", { class: "grid", x1: LEFT, x2: width - 8, y1: height - BOTTOM - tall(part),
      y2: height - BOTTOM - tall(part) }),
      s("text", { class: "axis", x: LEFT - 6, y: height - BOTTOM - tall(part) + 4, "text-anchor": "end" }, part));
  }
  for (const period of found.periods) {
    const left = LEFT + ((period.from_ms - first) / found.period_ms) * step;
    let base = height - BOTTOM;
    for (const [kind, n] of [["webhook", period.webhook], ["poll", period.poll - period.missed],
      ["missed", period.missed]]) {
      if (!n) continue;
      base -= tall(n);
      picture.append(s("rect", { class: `part ${kind}`, x: left + 0.5, y: base, width: Math.max(1, step - 1),
        height: tall(n) }, s("title", {}, `${n} ${kind}`)));
    }
  }
  timeAxis(picture, first, to, periods * found.period_ms, width, height);
  return picture;
}

function timeAxis(picture, first, to, whole_ms, width, height) {
  const name = (at) => new Date(at).toLocaleString("en-GB", to - first > 90_000_000 ? { day: "numeric", month: "short" }
    : { hour: "2-digit", minute: "2-digit" });
  for (const [at, anchor] of [[first, "start"], [(first + to) / 2, "middle"], [to, "end"]]) {
    picture.append(s("text", { class: "axis", x: LEFT + ((at - first) / whole_ms) * (width - LEFT - 8), y: height - 5,
      "text-anchor": anchor }, name(at)));
  }
}

/** Values over time, a stepped line for each of `series` ({name, of}); null is not known, and leaves a gap. Periods
 * that `course` leaves out count as 0, or where `gaps` is set as not known. `doubt` tells of a period what is not known
 * of it: such periods have a hatched foot. */
export function lines(course, series, { from, to, period_ms, width, label, told, gaps = false, doubt }) {
  const height = 150;
  const first = Math.floor(from / period_ms) * period_ms;
  const periods = Math.max(1, Math.ceil((to - first) / period_ms));
  const step = (width - LEFT - 8) / periods;
  const most = Math.max(...course.flatMap((period) => series.map(({ of }) => of(period) ?? 0)), 0) || 1;
  const y = (value) => height - BOTTOM - (value / most) * (height - TOP - BOTTOM);
  const picture = s("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": label });
  for (const value of [0, most]) {
    picture.append(s("line", { class: "grid", x1: LEFT, x2: width - 8, y1: y(value), y2: y(value) }),
      s("text", { class: "axis", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value ? told(value) : "0"));
  }
  const by = new Map(course.map((period) => [(period.from_ms - first) / period_ms, period]));
  if (doubt) picture.append(hatched("doubt"));
  for (const [place, period] of by) {
    const text = doubt?.(period);
    if (text) picture.append(s("rect", { class: "part doubt", x: LEFT + place * step, y: y(0) - 6, height: 6,
      width: step }, s("title", {}, text)));
  }
  series.forEach(({ of }, number) => {
    let [path, pen] = ["", "M"];
    for (let place = 0; place < periods; place++) {
      const value = by.has(place) ? of(by.get(place)) : gaps ? null : 0;
      if (value === null) {
        pen = "M";
        continue;
      }
      path += `${pen}${LEFT + place * step} ${y(value)}H${LEFT + (place + 1) * step}`;
      pen = "L";
    }
    picture.append(s("path", { class: `line s${number}`, d: path }));
  });
  timeAxis(picture, first, to, periods * period_ms, width, height);
  return picture;
}
