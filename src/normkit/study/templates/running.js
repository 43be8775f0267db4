"use strict";
// Train against eval: batches of one real feature, their means, and the running average that evaluation uses.
(() => {
  const host = document.getElementById("running-view");
  const feature = JSON.parse(document.getElementById("feature-values").textContent);
  const STEPS = 60;
  const SIZES = [2, 4, 8, 16, 32, 64, 128];

  State.define("batch", 8, SIZES);
  State.define("momentum", 0.1, (text) => (Number(text) > 0 && Number(text) <= 1 ? Number(text) : undefined));
  State.define("step", 20, (text) => (/^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= STEPS ? Number(text) : undefined));

  // A fixed shuffle, the same for everybody: a linear congruential generator.
  let seed = 12345;
  const random = () => (seed = (seed * 1664525 + 1013904223) % 4294967296) / 4294967296;
  const order = feature.map((_, i) => i);
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  const whole = Norms.moments(feature);
  const batches = (size) => [...Array(STEPS).keys()].map((t) => [...Array(size).keys()].map((k) => feature[order[(t * size + k) % order.length]]));

  const controls = make("div", { class: "controls" });
  const canvas = make("div", { class: "canvas" });
  const words = make("div", { class: "readout", "aria-live": "polite" });
  const level = make("svg", { viewBox: "0 0 28 12", width: 28, height: 12, class: "key-sign", "aria-hidden": "true" },
    make("line", { x1: 1, x2: 27, y1: 6, y2: 6, class: "level" }));
  const legend = make("p", { class: "key-row" },
    make("span", {}, key("vermilion", { wire: false }), "mean of a batch"),
    make("span", {}, key("blue", { dots: false }), "running average"),
    make("span", {}, level, "mean of all images"));
  host.append(controls, make("div", { class: "stage" }, make("div", { class: "left" }, legend, canvas), words));
  slider(controls, "batch size", "batch", { values: SIZES });
  slider(controls, "momentum", "momentum", { low: 0.01, high: 1, step: 0.01, format: (x) => number(x, 2) });
  slider(controls, "training step", "step", { low: 1, high: STEPS, step: 1 });

  function draw() {
    const size = State.get("batch");
    const history = Norms.running(batches(size), State.get("momentum"));
    const t = State.get("step") - 1;
    chart(canvas, {
      label: `Means of ${STEPS} batches of ${size}, and their running average`,
      x: { values: [1, STEPS], ticks: [1, 20, 40, 60], title: "training step" },
      y: { low: 0, high: 16, values: [], ticks: [0, 4, 8, 12, 16], title: "mean of the feature" },
      mark: State.get("step"),
      horizontal: [whole.mean],
      lines: [
        { hue: "vermilion", dots: 3, wire: false, points: history.map((h, i) => ({ x: i + 1, mean: h.batchMean })) },
        { hue: "blue", points: history.map((h, i) => ({ x: i + 1, mean: h.mean })) },
      ],
    });
    const x = 12;
    const out = (mean, variance) => (x - mean) / Math.sqrt(variance + 1e-5);
    const now = history[t];
    const trained = history.slice(0, t + 1).map((h) => out(h.batchMean, h.batchVariance));
    const say = (name, v, digits = 2) => make("strong", { "data-value": name, "data-exact": v }, number(v, digits));
    const constant = now.batchVariance === 0;
    words.replaceChildren(
      make("p", {}, "One number, x = 12, normalized at this step:"),
      make("p", { class: "formula" }, "training, by the batch: ", say("train", out(now.batchMean, now.batchVariance))),
      make("p", { class: "formula" }, "evaluation, by the running average: ", say("eval", out(now.mean, now.variance))),
      make("p", { class: "formula" }, "with the mean and variance of all images: ", say("population", out(whole.mean, whole.variance))),
      make("p", {}, `In training the same 12 has come out between ${number(Math.min(...trained), 2)} and ${number(Math.max(...trained), 2)} so far, depending on who else was in the batch.`),
      make("p", { class: "fine" }, constant
        ? "All values of this batch are the same: its variance is 0."
        : `Running mean ${number(now.mean, 2)}, running variance ${number(now.variance, 2)}; both began at 0 and 1.`));
  }
  State.watch(["batch", "momentum", "step"], draw);
  new ResizeObserver(draw).observe(canvas);
})();
