"use strict";
// A map: two axes, a colour for each place. What is low stands out: it is dark on light paper, and bright on dark paper.
const HeatMap = (() => {
  const BOUNDS = [3, 10, 30, 60]; // per cent wrong
  const CELL = [26, 22];
  const [LEFT, TOP, BOTTOM] = [58, 4, 38];

  const heat = (value) => 4 - BOUNDS.filter((bound) => value > bound).length;

  // value(x, y): a number, or null where nothing was measured. chosen: the place with a frame.
  function draw({ label, x, y, value, chosen, pick }) {
    const [width, height] = [LEFT + x.values.length * CELL[0] + 6, TOP + y.values.length * CELL[1] + BOTTOM];
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart map" });
    const left = (i) => LEFT + i * CELL[0];
    const top = (j) => TOP + (y.values.length - 1 - j) * CELL[1]; // the largest at the top
    y.values.forEach((v, j) => {
      svg.append(make("text", { x: LEFT - 6, y: top(j) + CELL[1] / 2 + 4, "text-anchor": "end" }, y.format(v)));
      x.values.forEach((u, i) => {
        const found = value(u, v);
        if (found === null) return;
        svg.append(make("rect", {
          x: left(i), y: top(j), width: CELL[0] - 1, height: CELL[1] - 1, rx: 2, style: `fill: var(--heat${heat(found)})`, onclick: () => pick(u, v),
        }));
      });
    });
    x.values.forEach((u, i) => {
      if (i % 2 === 0) svg.append(make("text", { x: left(i) + CELL[0] / 2, y: height - BOTTOM + 15, "text-anchor": "middle" }, x.format(u)));
    });
    svg.append(
      make("text", { x: (LEFT + width) / 2, y: height - 5, "text-anchor": "middle", class: "axis" }, x.name),
      make("text", { x: 10, y: (height - BOTTOM) / 2, "text-anchor": "middle", class: "axis", transform: `rotate(-90 10 ${(height - BOTTOM) / 2})` }, y.name));
    const [i, j] = [x.values.indexOf(chosen[0]), y.values.indexOf(chosen[1])];
    if (i >= 0 && j >= 0) svg.append(make("rect", { x: left(i) - 1, y: top(j) - 1, width: CELL[0] + 1, height: CELL[1] + 1, rx: 3, class: "frame" }));
    return svg;
  }

  function legend(words) {
    const names = [`up to ${BOUNDS[0]}`, ...BOUNDS.slice(1).map((bound, i) => `to ${bound}`), `above ${BOUNDS.at(-1)}`];
    return make("p", { class: "key-row" }, `${words}:`, ...names.map((name, i) =>
      make("span", {}, make("span", { class: "heat-sign", style: `background: var(--heat${4 - i})`, "aria-hidden": "true" }), name)));
  }

  return { draw, legend };
})();
