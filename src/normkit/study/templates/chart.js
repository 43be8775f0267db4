"use strict";
// A small line chart in SVG: lines with ribbons, points, a marked place. Colours come from the page's variables.
// A line with "strong" stands out from the others and lies above them.

// Markers and dashes tell lines apart where colours do not. A polygon: how many corners, the angle of the first, and
// for a star how far in its inner corners lie.
const POLYGONS = {
  square: [4, 45, 1], diamond: [4, 0, 1], "triangle-up": [3, -90, 1], pentagon: [5, -90, 1], hexagon: [6, 0, 1],
  star: [5, -90, 0.45], cross: [4, 45, 0.4],
};
const DASHES = { diamond: "7 4", "circle-open": "2 4", star: "9 3 2 3", hexagon: "4 3" };

function marker(kind, cx, cy, r) {
  if (!POLYGONS[kind]) return make("circle", { cx, cy, r, class: kind === "circle-open" ? "hollow" : null });
  const [corners, first, inner] = POLYGONS[kind];
  const points = [];
  for (let i = 0; i < 2 * corners; i++) {
    if (i % 2 && inner === 1) continue;
    const angle = ((first + (i * 180) / corners) * Math.PI) / 180;
    const reach = 1.25 * r * (i % 2 ? inner : 1);
    points.push(`${(cx + reach * Math.cos(angle)).toFixed(2)},${(cy + reach * Math.sin(angle)).toFixed(2)}`);
  }
  return make("polygon", { points: points.join(" "), class: "dot" });
}

// How a line looks, for a legend.
function key(hue, { kind = "circle", wire = true, dots = true } = {}) {
  return make("svg", { viewBox: "0 0 28 12", width: 28, height: 12, class: "key-sign", "aria-hidden": "true", style: `color: var(--${hue})` },
    wire ? make("polyline", { points: "1,6 27,6", class: "wire", "stroke-dasharray": DASHES[kind] }) : null,
    dots ? marker(kind, 14, 6, 3.5) : null);
}

function chart(host, { label, x, y, lines, mark = null, horizontal = [], height = 320 }) {
  const width = Math.max(300, host.clientWidth || 640);
  const [left, right, top, bottom] = [54, 14, 12, 44];
  const scaleOf = ({ values, log, low, high }, from, to) => {
    const f = log ? Math.log : (v) => v;
    const lo = f(low ?? Math.min(...values));
    const hi = f(high ?? Math.max(...values));
    return (v) => (hi === lo ? (from + to) / 2 : from + ((f(v) - lo) / (hi - lo)) * (to - from));
  };
  const sx = scaleOf(x, left, width - right);
  const sy = scaleOf(y, height - bottom, top);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, class: "chart" });
  for (const tick of y.ticks) {
    svg.append(
      make("line", { x1: left, x2: width - right, y1: sy(tick), y2: sy(tick), class: "gridline" }),
      make("text", { x: left - 8, y: sy(tick) + 4, "text-anchor": "end" }, y.format ? y.format(tick) : String(tick)));
  }
  let free = -Infinity; // no tick is written over the one before
  for (const tick of x.ticks) {
    const words = x.format ? x.format(tick) : String(tick);
    const half = 3.6 * words.length;
    if (sx(tick) - half < free) continue;
    free = sx(tick) + half + 6;
    svg.append(make("text", { x: sx(tick), y: height - bottom + 20, "text-anchor": "middle" }, words));
  }
  svg.append(
    make("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle", class: "axis" }, x.title),
    make("text", { x: 14, y: (top + height - bottom) / 2, "text-anchor": "middle", class: "axis", transform: `rotate(-90 14 ${(top + height - bottom) / 2})` }, y.title));
  if (mark !== null) svg.append(make("line", { x1: sx(mark), x2: sx(mark), y1: top, y2: height - bottom, class: "mark" }));
  for (const value of horizontal) {
    svg.append(make("line", { x1: left, x2: width - right, y1: sy(value), y2: sy(value), class: "level" }));
  }
  const at = (points, pick) => points.map((point) => `${sx(point.x).toFixed(1)},${sy(pick(point)).toFixed(1)}`);
  const drawable = ({ mean }) => mean !== null && Number.isFinite(mean);
  for (const { points, hue, kind = "circle", strong, dots, wire = true } of [...lines].sort((a, b) => (a.strong ?? 0) - (b.strong ?? 0))) {
    const real = points.filter(drawable);
    const group = make("g", { style: `color: var(--${hue})`, class: strong ? "strong" : null });
    const banded = real.filter((point) => point.low !== undefined && point.low !== null && point.high !== null);
    if (banded.length > 1) {
      const edge = [...at(banded, (p) => p.high), ...at(banded, (p) => p.low).reverse()];
      group.append(make("polygon", { points: edge.join(" "), class: "ribbon" }));
    }
    if (wire) group.append(make("polyline", { points: at(real, (p) => p.mean).join(" "), class: "wire", "stroke-dasharray": DASHES[kind] }));
    if (dots) for (const point of real) group.append(marker(kind, sx(point.x), sy(point.mean), strong ? dots + 1 : dots));
    svg.append(group);
  }
  host.replaceChildren(svg);
}

// Round ticks between two values: decades on a log axis, parts of them where those are too few.
function ticks(low, high, log = false) {
  if (log) {
    for (const parts of high / low > 300 ? [[1], [1, 3]] : [[1, 3], [1, 2, 3, 5, 7]]) {
      const out = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
        for (const m of parts) {
          const v = m * 10 ** e;
          if (v >= low * 0.999 && v <= high * 1.001) out.push(Number(v.toPrecision(3)));
        }
      }
      if (out.length > 2) return out;
    }
  }
  const rough = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * ([1, 2, 5].find((m) => m * unit >= rough) ?? 10);
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) out.push(Number(v.toPrecision(6)));
  return out;
}
