"use strict";
// Sliders over the grid of real runs. Nothing here is computed from a model: every number was measured.
(() => {
  const host = document.getElementById("runs-view");
  if (!host) return; // a page without runs
  const { charts, looks, names } = JSON.parse(document.getElementById("runs-values").textContent);
  const short = (v) => (v === 0 ? "0" : v >= 0.001 && v < 100000 ? String(Number(v.toPrecision(3))) : v.toExponential(0));
  const measured = (v) => (v >= 0.001 && v < 1000 ? v.toPrecision(3) : short(v)); // 0.150 beside 0.134
  const AXES = { batch: "batch size", lr: "learning rate", depth: "depth", scale: "initial scale" };
  const of = (id) => charts.find((one) => one.id === id);
  // The values of each axis that were run, found once.
  for (const one of charts) {
    one.levels = Object.fromEntries(Object.keys(AXES).map((axis) =>
      [axis, [...new Set(one.points.map((point) => point[axis]).filter((v) => v !== null))].sort((a, b) => a - b)]));
  }
  const levels = (one, axis) => one.levels[axis];
  const axes = (one) => Object.keys(AXES).filter((axis) => levels(one, axis).length);
  const open = (one) => axes(one).filter((axis) => levels(one, axis).length > 1); // those that a slider can move along

  State.define("run", charts[0].id, charts.map((one) => one.id));
  State.define("along", "", ["", "map", ...Object.keys(AXES)]);
  for (const axis of Object.keys(AXES)) {
    State.define(`run-${axis}`, null, (text) => (Number.isFinite(Number(text)) ? Number(text) : undefined));
  }
  State.define("run-norm", "batch", Object.keys(names));
  State.define("off", "", (text) => (/^[a-z0-9_,. -]{0,200}$/.test(text) ? text : undefined));

  const pick = make("div", { class: "controls" });
  const sliders = make("div", { class: "controls" });
  const legend = make("div", { class: "legend-row", role: "group", "aria-label": "Norms drawn" });
  const canvas = make("div", { class: "canvas" });
  const told = make("div", { "aria-live": "polite" });
  const words = make("div");
  const note = make("p", { class: "fine" });
  host.append(pick, sliders, legend, make("div", { class: "stage" }, make("div", { class: "left" }, canvas), make("div", { class: "readout" }, told, words)), note);
  choice(pick, "Experiment", charts.map((one) => ({ value: one.id, text: one.title })), "run");
  const ways = [["map", "as a map"], ...Object.entries(AXES).map(([axis, name]) => [axis, `by ${name}`])];
  const alongButtons = choice(pick, "Along the bottom", ways.map(([value, text]) => ({ value, text })), "along");

  // The value of an axis: what the reader chose, if this experiment has it; else its middle one.
  function level(one, axis) {
    const all = levels(one, axis);
    const wanted = State.get(`run-${axis}`);
    return all.includes(wanted) ? wanted : all[Math.floor(all.length / 2)];
  }
  const waysOf = (one) => [...(one.map ? ["map"] : []), ...open(one)];
  const longest = (one) => axes(one).reduce((best, axis) => (levels(one, axis).length > levels(one, best).length ? axis : best));
  const along = (one) => (waysOf(one).includes(State.get("along")) ? State.get("along") : one.map ? "map" : longest(one));

  // The norms drawn; one always is.
  function drawn(one) {
    const off = new Set(State.get("off").split(","));
    const left = one.norms.filter((norm) => !off.has(norm));
    return left.length ? left : one.norms.slice(0, 1);
  }
  // The norm in front: what the reader chose, if it is drawn.
  const front = (one) => (drawn(one).includes(State.get("run-norm")) ? State.get("run-norm") : drawn(one)[0]);
  const offBut = (one, norms) => one.norms.filter((norm) => !norms.includes(norm)).join(",");

  // A slider over values that were run. read: the value now; write: what the reader's choice changes.
  function slide(one, name, label, values, format, read, write) {
    const id = `run-${name}`;
    const input = make("input", { id, type: "range", min: 0, max: values.length - 1, step: 1 });
    const output = make("output", { for: id });
    input.addEventListener("input", () => State.set(write(values[Number(input.value)])));
    sliders.append(make("div", { class: "slider", "data-slider": id }, make("label", { for: id }, label), input, output));
    return () => {
      input.value = values.indexOf(read());
      output.textContent = format(read());
      input.setAttribute("aria-valuetext", output.textContent);
    };
  }

  let refresh = [];
  function build() {
    const one = of(State.get("run"));
    sliders.replaceChildren();
    refresh = open(one).map((axis) =>
      slide(one, axis, AXES[axis], levels(one, axis), short, () => level(one, axis), (value) => ({ [`run-${axis}`]: value })));
    // A norm that was put away comes back when it is chosen.
    refresh.push(slide(one, "norm", "norm in front", one.norms, (norm) => names[norm], () => front(one),
      (norm) => ({ "run-norm": norm, off: offBut(one, [...drawn(one), norm]) })));
    legend.replaceChildren(make("span", { class: "soft", "aria-hidden": "true" }, "drawn:"), ...one.norms.map((norm) => make("button", {
      type: "button", "data-norm": norm,
      onclick: () => {
        const now = drawn(one);
        const next = now.includes(norm) ? now.filter((other) => other !== norm) : [...now, norm];
        if (next.length) State.set({ off: offBut(one, next) });
      },
    }, key(looks[norm].hue, { kind: looks[norm].marker }), names[norm])));
    note.textContent = one.note;
  }

  function refreshControls(one) {
    for (const act of refresh) act();
    alongButtons[0].parentElement.hidden = waysOf(one).length < 2;
    alongButtons.forEach((button) => {
      button.hidden = !waysOf(one).includes(button.dataset.value);
      const on = button.dataset.value === along(one);
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    });
    const shown = drawn(one);
    for (const button of legend.querySelectorAll("button")) {
      const on = shown.includes(button.dataset.norm);
      button.setAttribute("aria-pressed", on);
      button.setAttribute("aria-disabled", on && shown.length === 1);
      button.classList.toggle("front", button.dataset.norm === front(one));
    }
  }

  // The scale is that of all runs of the experiment, so that it stays where it is while sliders move.
  function scaleOf(one) {
    const ends = one.points.flatMap(({ mean, low, high }) => [mean, low, high]).filter((v) => v !== null && (!one.log || v > 0));
    const [least, most] = one.limits;
    return { low: Math.max(Math.min(...ends), least ?? -Infinity), high: Math.min(Math.max(...ends), most ?? Infinity), log: one.log };
  }

  function drawLines(one, axis, here) {
    const { low, high, log } = scaleOf(one);
    const clip = (v) => (v === null ? null : Math.max(low, Math.min(high, v)));
    const xs = levels(one, axis);
    chart(canvas, {
      label: `${one.title}: ${one.metric}, by ${AXES[axis]}; the numbers stand beside it`,
      x: { values: xs, log: true, ticks: xs, title: AXES[axis], format: short },
      y: { low, high, log, values: [], ticks: ticks(low, high, log), title: one.metric, format: short },
      mark: level(one, axis),
      lines: drawn(one).map((norm) => ({
        hue: looks[norm].hue,
        kind: looks[norm].marker,
        dots: 3.5,
        strong: norm === front(one),
        points: one.points.filter((point) => point.norm === norm && here(point)).sort((a, b) => a[axis] - b[axis])
          .map((point) => ({ x: point[axis], mean: clip(point.mean), low: clip(point.low), high: clip(point.high) })),
      })),
    });
  }

  function drawMaps(one, here) {
    const side = (axis) => ({ values: levels(one, axis), name: AXES[axis], format: short });
    const maps = drawn(one).map((norm) => {
      const found = new Map(one.points.filter((point) => point.norm === norm && here(point)).map((point) => [`${point.lr} ${point.scale}`, point.mean]));
      return make("figure", { class: norm === front(one) ? "front" : null },
        make("figcaption", {}, names[norm]),
        found.size ? HeatMap.draw({
          label: `${names[norm]}: ${one.metric} for each learning rate and initial scale; the numbers of the framed place stand beside it`,
          x: side("lr"), y: side("scale"),
          value: (lr, scale) => found.get(`${lr} ${scale}`) ?? null,
          chosen: [level(one, "lr"), level(one, "scale")],
          pick: (lr, scale) => State.set({ "run-lr": lr, "run-scale": scale }),
        }) : make("p", { class: "soft" }, "not run here"));
    });
    canvas.replaceChildren(HeatMap.legend(one.metric), make("div", { class: "maps" }, ...maps));
  }

  const value = (point) => (point.mean === null ? "diverged" : measured(point.mean));
  // No further than the metric can lie, or is drawn.
  function between(point, [least, most]) {
    if (point.low === null) return "";
    const [low, high] = [Math.max(point.low, least ?? -Infinity), Math.min(point.high, most ?? Infinity)];
    return low > high ? "" : `${measured(low)} to ${high < point.high ? "more than " : ""}${measured(high)}`;
  }

  function draw() {
    const one = of(State.get("run"));
    refreshControls(one);
    const way = along(one);
    const alongAxes = way === "map" ? ["lr", "scale"] : [way];
    const fixed = open(one).filter((axis) => !alongAxes.includes(axis));
    const here = (point) => fixed.every((axis) => point[axis] === level(one, axis));
    if (way === "map") drawMaps(one, here);
    else drawLines(one, way, here);

    const now = one.points.filter((point) => drawn(one).includes(point.norm) && open(one).every((axis) => point[axis] === level(one, axis)));
    // A mean of survivors alone comes after those of all runs.
    const isOfAll = (point) => !(one.survivors && point.diverged);
    now.sort((a, b) => isOfAll(b) - isOfAll(a) || (a.mean ?? Infinity) - (b.mean ?? Infinity));
    const missing = drawn(one).filter((norm) => !now.some((point) => point.norm === norm));
    const mine = now.find((point) => point.norm === front(one));
    const where = axes(one).map((axis) => `${AXES[axis]} ${short(level(one, axis))}`).join(", ");
    const most = Math.max(...now.map((point) => point.n));
    const seeds = (point) => [point.n < most && `${point.n} seeds`, point.diverged && `${point.diverged} diverged`].filter(Boolean).join(", ");
    told.replaceChildren(
      make("p", { class: "place" }, `At ${where}`),
      mine
        ? make("p", { class: "front-number" }, `${names[mine.norm]} `, make("strong", { "data-exact": mine.mean }, value(mine)),
          make("span", { class: "soft" }, between(mine, one.limits) && ` ${between(mine, one.limits)}`))
        : make("p", { class: "front-number" }, `${names[front(one)]} was not run here.`));
    words.replaceChildren(
      make("table", { class: "numbers" },
        make("caption", { class: "hidden-title" }, `All norms at ${where}`),
        make("tbody", {}, ...now.map((point) => make("tr", { "data-norm": point.norm, class: point.norm === front(one) ? "front" : null },
          make("th", { scope: "row" }, key(looks[point.norm].hue, { kind: looks[point.norm].marker }), names[point.norm]),
          make("td", { "data-exact": point.mean }, value(point)),
          make("td", { class: "soft" }, between(point, one.limits)),
          make("td", { class: "soft" }, seeds(point)))),
        ...missing.map((norm) => make("tr", { "data-norm": norm },
          make("th", { scope: "row" }, key(looks[norm].hue, { kind: looks[norm].marker }), names[norm]),
          make("td", { class: "soft", colspan: 3 }, "not run here"))))),
      make("p", { class: "fine" }, `${one.metric}, best first, lower is better: the mean over ${now.length ? `${most} seeds` : "the seeds"} and its 95 % interval.`));
  }
  State.watch(["run"], build);
  State.watch(["run", "along", "off", "run-norm", ...Object.keys(AXES).map((axis) => `run-${axis}`)], draw);
  let width = canvas.clientWidth;
  new ResizeObserver(() => {
    if (canvas.clientWidth === width) return;
    width = canvas.clientWidth;
    draw();
  }).observe(canvas);
})();
