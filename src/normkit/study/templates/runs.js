"use strict";
// Sliders over the grid of real runs. Nothing here is computed from a model: every number was measured.
(() => {
  const host = document.getElementById("runs-view");
  if (!host) return; // a page without runs
  const { charts, looks } = JSON.parse(document.getElementById("runs-values").textContent);
  const short = (v) => (v >= 0.001 && v < 100000 ? String(Number(v.toPrecision(3))) : v.toExponential(0));
  const AXES = {
    batch: { name: "batch size", log: true, format: short },
    lr: { name: "learning rate", log: true, format: short },
    depth: { name: "depth in layers", log: true, format: short },
  };
  const of = (id) => charts.find((one) => one.id === id);
  const levels = (one, axis) => [...new Set(one.points.map((point) => point[axis]).filter((v) => v !== null))].sort((a, b) => a - b);
  const open = (one) => Object.keys(AXES).filter((axis) => levels(one, axis).length > 1);

  State.define("run", charts[0].id, charts.map((one) => one.id));
  State.define("along", "", ["", ...Object.keys(AXES)]);
  for (const axis of Object.keys(AXES)) {
    State.define(`run-${axis}`, null, (text) => (Number.isFinite(Number(text)) ? Number(text) : undefined));
  }
  State.define("off", "", (text) => (/^[a-z0-9,. -]{0,200}$/.test(text) ? text : undefined));

  const pick = make("div", { class: "controls" });
  const sliders = make("div", { class: "controls" });
  const legend = make("div", { class: "legend-row", role: "group", "aria-label": "Norms shown" });
  const canvas = make("div", { class: "canvas" });
  const words = make("div", { class: "readout", "aria-live": "polite" });
  const note = make("p", { class: "fine" });
  host.append(pick, sliders, legend, make("div", { class: "stage" }, make("div", { class: "left" }, canvas), words), note);
  choice(pick, "Experiment", charts.map((one) => ({ value: one.id, text: one.title })), "run");
  const alongButtons = choice(pick, "Along the bottom", Object.entries(AXES).map(([value, { name }]) => ({ value, text: `by ${name}` })), "along");

  // The value of an axis: what the reader chose, if this experiment has it; else its middle one.
  function level(one, axis) {
    const all = levels(one, axis);
    const wanted = State.get(`run-${axis}`);
    return all.includes(wanted) ? wanted : all[Math.floor((all.length - 1) / 2)];
  }
  const along = (one) => (open(one).includes(State.get("along")) ? State.get("along") : open(one)[0]);
  const off = () => new Set(State.get("off").split(",").filter(Boolean));

  function drawControls() {
    const one = of(State.get("run"));
    const axes = open(one);
    alongButtons.forEach((button) => {
      button.hidden = axes.length < 2 || !axes.includes(button.dataset.value);
      const on = button.dataset.value === along(one);
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    });
    sliders.replaceChildren();
    for (const axis of axes) {
      const all = levels(one, axis);
      const input = make("input", { id: `run-${axis}`, type: "range", min: 0, max: all.length - 1, step: 1 });
      const output = make("output", { for: `run-${axis}` });
      input.value = all.indexOf(level(one, axis));
      const say = () => {
        output.textContent = AXES[axis].format(all[Number(input.value)]);
        input.setAttribute("aria-valuetext", output.textContent);
      };
      input.addEventListener("input", () => {
        say();
        State.set({ [`run-${axis}`]: all[Number(input.value)] });
      });
      say();
      sliders.append(make("div", { class: "slider", "data-slider": `run-${axis}` }, make("label", { for: `run-${axis}` }, AXES[axis].name), input, output));
    }
    legend.replaceChildren(...one.norms.map((norm) => make("button", {
      type: "button", "aria-pressed": !off().has(norm), "data-norm": norm, style: `--hue: var(--${looks[norm].hue})`,
      onclick: () => {
        const gone = off();
        if (!gone.delete(norm)) gone.add(norm);
        State.set({ off: [...gone].join(",") });
        document.querySelector(`#runs-view [data-norm="${norm}"]`).focus();
      },
    }, make("span", { class: "swatch", "aria-hidden": "true" }), one.names[norm] ?? norm)));
    note.textContent = one.note;
  }

  function draw() {
    const one = of(State.get("run"));
    const axis = along(one);
    const gone = off();
    const fixed = open(one).filter((other) => other !== axis);
    const here = (point) => fixed.every((other) => point[other] === level(one, other));
    const shown = one.points.filter((point) => here(point) && !gone.has(point.norm));
    const xs = levels(one, axis);
    const log = one.log && shown.every((point) => point.mean === null || point.mean > 0);
    const ends = shown.flatMap(({ mean, low, high }) => [mean, low, high]).filter((v) => v !== null && Number.isFinite(v) && (!log || v > 0));
    const low = Math.max(Math.min(...ends), one.floor ?? -Infinity);
    const high = Math.min(Math.max(...ends), one.ceiling ?? Infinity);
    const clip = (v) => (v === null ? null : Math.max(low, Math.min(high, v)));
    const format = (v) => (one.percent ? `${number(100 * v, Math.abs(high - low) < 0.1 ? 1 : 0)} %` : short(v));
    chart(canvas, {
      label: `${one.title}, by ${AXES[axis].name}; the numbers stand beside it`,
      x: { values: xs, log: AXES[axis].log, ticks: xs.length > 9 ? xs.filter((_, i) => i % 2 === 0) : xs, title: AXES[axis].name, format: AXES[axis].format },
      y: { low, high, log, values: [], ticks: ticks(low, high, log), title: one.metric, format },
      mark: level(one, axis),
      lines: one.norms.filter((norm) => !gone.has(norm)).map((norm) => ({
        hue: looks[norm].hue,
        dots: 3.5,
        points: shown.filter((point) => point.norm === norm).sort((a, b) => a[axis] - b[axis])
          .map((point) => ({ x: point[axis], mean: clip(point.mean), low: clip(point.low), high: clip(point.high) })),
      })),
    });
    const now = shown.filter((point) => point[axis] === level(one, axis));
    const sign = one.lower ? 1 : -1;
    now.sort((a, b) => sign * ((a.mean ?? sign * Infinity) - (b.mean ?? sign * Infinity)));
    const where = open(one).map((other) => `${AXES[other].name} ${AXES[other].format(level(one, other))}`).join(", ");
    words.replaceChildren(
      make("p", {}, `At ${where}, best first:`),
      make("table", { class: "numbers" }, make("tbody", {}, ...now.map((point) => make("tr", { "data-norm": point.norm },
        make("th", { scope: "row" }, make("span", { class: "swatch", style: `--hue: var(--${looks[point.norm].hue})`, "aria-hidden": "true" }), one.names[point.norm] ?? point.norm),
        make("td", { "data-exact": point.mean }, point.mean === null ? "diverged" : format(point.mean)),
        make("td", { class: "soft" }, point.low === null ? "" : `${format(point.low)} to ${format(point.high)}`),
        make("td", { class: "soft" }, `${point.n} seeds${point.diverged ? `, ${point.diverged} diverged` : ""}`))))),
      make("p", { class: "fine" }, `${one.metric}; ${one.lower ? "lower" : "higher"} is better; the mean over the seeds and its 95 % interval.`));
  }
  State.watch(["run", "off", "along"], drawControls);
  State.watch(["run", "along", "off", "run-batch", "run-lr", "run-depth"], draw);
  new ResizeObserver(draw).observe(canvas);
})();
