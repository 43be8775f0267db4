"use strict";
// The tensor, coloured by what shares a mean and a variance; a cell opens its arithmetic.
(() => {
  const { SHAPES, NORMS, serves, normalize } = Norms;
  const host = document.getElementById("tensor-view");
  const source = JSON.parse(document.getElementById("tensor-values").textContent);
  const start = (shape) => source[shape].slice();
  let values = start("nc");
  let before = null; // outputs before the last change, to mark what moved
  let changedExample = 0; // whose numbers that change was to

  State.define("shape", "nc", Object.keys(SHAPES));
  State.define("norm", "batch", Object.keys(NORMS));
  State.define("cell", 0, (text) => (/^\d{1,3}$/.test(text) ? Number(text) : undefined));
  State.define("gamma", 1, real(-1e6, 1e6));
  State.define("beta", 0, real(-1e6, 1e6));
  State.define("show", "x", ["x", "y"]);
  State.define("changes", "", (text) => (/^[\d.,:-]{0,400}$/.test(text) ? text : undefined));

  function real(low, high) {
    return (text) => {
      const value = Number(text);
      return text !== "" && Number.isFinite(value) && value >= low && value <= high ? value : undefined;
    };
  }

  const controls = make("div", { class: "controls" });
  const drawing = make("div", { class: "tensor", role: "group", "aria-label": "The tensor, one button a number" });
  const summary = make("p", { class: "shares", "aria-live": "polite" });
  const arithmetic = make("div", { class: "arithmetic" }); // the cell that has the focus says its own name, value and group
  const neurons = make("div", { class: "neurons" });
  const moved = make("p", { class: "moved", "aria-live": "polite" });
  host.append(controls, make("div", { class: "stage" }, make("div", { class: "left" }, drawing, summary, neurons, moved), arithmetic));

  const names = Object.entries(NORMS);
  choice(controls, "Shape of the tensor", Object.entries(SHAPES).map(([value, { name }]) => ({ value, text: name })), "shape");
  const norms = choice(controls, "Norm", names.filter(([, n]) => !n.reading).map(([value, { name }]) => ({ value, text: name })), "norm");
  const told = make("p", { class: "told" }, "What study texts say, taken at their word:");
  controls.append(told);
  const readings = choice(controls, "Wrong readings", names.filter(([, n]) => n.reading).map(([value, { name }]) => ({ value, text: name })), "norm");
  choice(controls, "Numbers shown", [{ value: "x", text: "input x" }, { value: "y", text: "output y" }], "show");

  const options = () => ({ gamma: State.get("gamma"), beta: State.get("beta") });
  const result = () => normalize(State.get("norm"), State.get("shape"), values, options());
  const coordinates = (at) => {
    const [, P, C] = SHAPES[State.get("shape")].sizes;
    return [Math.floor(at / (P * C)), Math.floor(at / C) % P, at % C];
  };
  // A name for a place, as the tensor is indexed: x[2, 0], x[1, 3, 5], x[0, 2, 1, 0].
  function index(at) {
    const [n, p, c] = coordinates(at);
    const shape = State.get("shape");
    const [, width] = SHAPES[shape].grid;
    if (shape === "nc") return `[${n}, ${c}]`;
    if (shape === "ntc") return `[${n}, ${p}, ${c}]`;
    return `[${n}, ${c}, ${Math.floor(p / width)}, ${p % width}]`;
  }

  function applyChanges() {
    values = start(State.get("shape"));
    for (const change of State.get("changes").split(",").filter(Boolean)) {
      const [at, value] = change.split(":").map(Number);
      if (Number.isInteger(at) && at >= 0 && at < values.length && Number.isFinite(value)) values[at] = value;
    }
  }
  function writeChanges() {
    const original = source[State.get("shape")];
    const changes = values.flatMap((value, at) => (value === original[at] ? [] : [`${at}:${value}`]));
    State.set({ changes: changes.join(",") });
  }

  function change(places, to) {
    before = result().y;
    [changedExample] = coordinates(places[0]);
    for (const at of places) values[at] = to(at);
    writeChanges();
  }

  let cells = [];
  function drawGrid() {
    const shape = State.get("shape");
    const [N, P, C] = SHAPES[shape].sizes;
    cells = [];
    const cell = (at) => {
      cells[at] = make("button", { type: "button", class: "cell", "data-at": at, onclick: () => State.set({ cell: at }) });
      return cells[at];
    };
    const table = (caption, rows, heads) => make("table", { class: "block" },
      caption ? make("caption", {}, caption) : null,
      heads ? make("thead", {}, make("tr", {}, make("td"), ...heads.map((head) => make("th", { scope: "col" }, head)))) : null,
      make("tbody", {}, ...rows.map(([head, places]) => make("tr", {},
        heads ? make("th", { scope: "row" }, head) : null, ...places.map((at) => make("td", {}, cell(at)))))));
    const range = (n) => [...Array(n).keys()];
    const blocks = [];
    const channels = range(C).map((c) => `c${c}`);
    if (shape === "nc") {
      blocks.push(table("a row an example, a column a channel", range(N).map((n) => [`n${n}`, range(C).map((c) => Norms.place(shape, n, 0, c))]), channels));
    } else if (shape === "ntc") {
      for (const n of range(N)) {
        blocks.push(table(`sequence ${n}`, range(P).map((p) => [`t${p}`, range(C).map((c) => Norms.place(shape, n, p, c))]), channels));
      }
    } else {
      const [height, width] = SHAPES[shape].grid;
      for (const n of range(N)) {
        const maps = range(C).map((c) => table(`c${c}`, range(height).map((h) => ["", range(width).map((w) => Norms.place(shape, n, h * width + w, c))])));
        blocks.push(make("div", { class: "image" }, make("p", {}, `image ${n}`), ...maps));
      }
    }
    drawing.replaceChildren(...blocks);
    drawing.dataset.shape = shape;
  }

  // The arrow keys walk over the picture as it is laid out.
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!step || !document.activeElement.classList.contains("cell")) return;
    event.preventDefault();
    const here = document.activeElement.getBoundingClientRect();
    const centre = (box) => [box.left + box.width / 2, box.top + box.height / 2];
    const [x, y] = centre(here);
    let best = null;
    for (const cell of cells) {
      const [cx, cy] = centre(cell.getBoundingClientRect());
      const [dx, dy] = [cx - x, cy - y];
      const ahead = dx * step[0] + dy * step[1];
      const aside = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
      if (ahead > 4 && (!best || ahead + 4 * aside < best.cost)) best = { cell, cost: ahead + 4 * aside };
    }
    if (best) {
      State.set({ cell: Number(best.cell.dataset.at) });
      best.cell.focus();
    }
  });

  function colour() {
    const { y, label, groups } = result();
    const shown = State.get("show") === "y" ? y : values;
    const chosen = State.get("cell");
    const order = [...groups.keys()];
    cells.forEach((cell, at) => {
      const group = order.indexOf(label[at]);
      // Neighbouring groups differ in hue and in tone, so that more groups than hues still part.
      cell.style.setProperty("--group", `var(--group${group % 8})`);
      cell.style.setProperty("--tone", `${[24, 40, 14][Math.floor(group / 8) % 3]}%`);
      cell.textContent = number(shown[at], State.get("shape") === "nchw" ? 1 : 2);
      cell.classList.toggle("mate", label[at] === label[chosen]);
      cell.classList.toggle("changed", before !== null && Math.abs(before[at] - y[at]) > 1e-9);
      cell.setAttribute("aria-pressed", at === chosen);
      cell.setAttribute("aria-label", `${index(at)} ${State.get("show")} ${number(shown[at])}, ${label[at]}`);
      cell.tabIndex = at === chosen ? 0 : -1;
    });
    const size = groups.get(label[chosen]).places.length;
    const words = `${groups.size} ${groups.size === 1 ? "pair" : "pairs"} of mean and variance, each of ${size} ${size === 1 ? "number" : "numbers"}: ${NORMS[State.get("norm")].words}.`;
    if (summary.textContent !== words) summary.textContent = words; // read aloud where it changes, not at each key
    showMoved(y);
  }

  function showMoved(y) {
    if (before === null) return moved.replaceChildren();
    let others = 0;
    let changed = 0;
    y.forEach((value, at) => {
      if (coordinates(at)[0] === changedExample) return;
      others += 1;
      if (Math.abs(before[at] - value) > 1e-9) changed += 1;
    });
    moved.textContent = `Marked: what moved. Of the ${others} outputs of the other examples, ${changed === 0 ? "none" : changed} moved with it.`;
    return undefined;
  }

  // Why the same distribution is not what LayerNorm gives: its neurons beside what the sentence asks for.
  function showNeurons() {
    if (State.get("norm") !== "read-alike") return neurons.replaceChildren();
    const shape = State.get("shape");
    const found = Norms.neurons(shape, normalize("layer", shape, values).y);
    const row = (head, cells) => make("tr", {}, make("th", { scope: "row" }, head), ...cells);
    const told = (name, pick) => found.map((one, c) => make("td", { "data-neuron": `${name} ${c}`, "data-exact": pick(one) }, number(pick(one), 2)));
    neurons.replaceChildren(
      make("p", {}, "For one input a neuron has one value, and no distribution. Over all inputs LayerNorm leaves each neuron a mean and a spread of its own:"),
      make("div", { class: "scroll" }, make("table", { class: "numbers" },
        make("thead", {}, make("tr", {}, make("td"), ...found.map((_, c) => make("th", { scope: "col" }, `c${c}`)))),
        make("tbody", {},
          row("mean", told("mean", (one) => one.mean)),
          row("spread", told("spread", (one) => Math.sqrt(one.variance)))))));
    return undefined;
  }

  const line = (...parts) => make("p", { class: "formula" }, ...parts);
  function explain() {
    const at = State.get("cell");
    const { y, label, groups } = result();
    const group = groups.get(label[at]);
    const n = group.places.length;
    const { gamma, beta } = options();
    const list = group.places.map((place) => number(values[place], 2));
    const shortened = list.length > 14 ? [...list.slice(0, 12), `… ${list.length - 12} more`] : list;
    const hat = (values[at] - (group.centred ? group.mean : 0)) / group.spread;
    const kind = NORMS[State.get("norm")];
    arithmetic.replaceChildren(
      make("h3", {}, `Cell ${index(at)}`),
      make("p", {}, make("label", { class: "edit" }, "x = ", editor(at)), ` shares its statistics with ${n - 1} other${n === 2 ? "" : "s"}: ${label[at]}.`),
      make("p", { class: "members" }, shortened.join("  ")),
      group.centred ? line("μ = sum / ", String(n), " = ", value("mean", group.mean)) : line("no mean is taken away"),
      group.centred ? line("σ² = mean of (x − μ)² = ", value("variance", group.variance)) : line("mean of x² = ", value("square", group.square)),
      line(group.centred ? `x̂ = (${number(values[at], 2)} − ${bracketed(group.mean)}) / √(σ² + ε) = ` : `x̂ = ${number(values[at], 2)} / √(mean of x² + ε) = `, value("hat", hat)),
      line(`y = γ·x̂ + β = ${number(gamma, 2)} · ${bracketed(hat)} + ${bracketed(beta, 2)} = `, value("y", y[at])),
      make("p", { class: "fine" }, `ε = 0.00001, inside the root.`, n === 1 ? " A mean of one number is that number: x̂ is 0 whatever x is." : ""),
      kind.reading ? make("p", { class: "notice" }, "Not what the norm does. ", make("a", { href: `#claim-${kind.reading}` }, `Claim ${kind.reading}`), " has the verdict.") : "",
    );
  }
  const bracketed = (x, digits = 3) => (x < 0 ? `(${number(x, digits)})` : number(x, digits));
  const value = (name, x) => make("strong", { "data-value": name, "data-exact": x }, number(x));
  function editor(at) {
    const input = make("input", { type: "number", step: "0.5", value: values[at], id: "cell-value", "aria-label": `x${index(at)}` });
    let entered = false; // a new input takes this one's place: by Enter one stays in it, by Tab one goes on
    input.addEventListener("keydown", (event) => (entered = event.key === "Enter"));
    input.addEventListener("change", () => {
      const x = Number(input.value);
      if (input.value !== "" && Number.isFinite(x) && Math.abs(x) <= 1e6) {
        change([at], () => x);
        if (entered) document.getElementById("cell-value").focus();
      } else input.value = values[at];
    });
    return input;
  }

  const affine = make("div", { class: "affine" });
  slider(affine, "γ (scale)", "gamma", { low: -3, high: 3, step: 0.1, format: (x) => number(x, 2) });
  slider(affine, "β (shift)", "beta", { low: -3, high: 3, step: 0.1, format: (x) => number(x, 2) });
  const acts = make("div", { class: "acts" },
    make("button", { type: "button", id: "replace-example", onclick: () => {
      const [own] = coordinates(State.get("cell"));
      change(values.flatMap((_, at) => (coordinates(at)[0] === own ? [at] : [])), (at) => Math.round((4 - values[at]) * 10) / 10);
    } }, "Replace this whole example"),
    make("button", { type: "button", id: "undo-norm", onclick: () => {
      const { label, groups } = result();
      const group = groups.get(label[State.get("cell")]);
      State.set({ gamma: group.spread, beta: group.centred ? group.mean : 0 }); // beyond the sliders' ends, if need be
    } }, "Set γ and β so that they undo the norm here"),
    make("button", { type: "button", id: "reset-tensor", onclick: () => {
      before = null;
      State.set({ changes: "", gamma: 1, beta: 0 });
    } }, "Start again"));
  host.append(affine, acts);

  State.watch(["shape"], () => {
    const shape = State.get("shape");
    before = null;
    norms.concat(readings).forEach((button) => (button.hidden = !serves(button.dataset.value, shape)));
    drawGrid();
    const fix = { norm: serves(State.get("norm"), shape) ? State.get("norm") : "layer" };
    if (State.get("cell") >= cells.length) fix.cell = 0;
    State.set(fix);
  });
  let drawnShape = State.get("shape");
  State.watch(["shape", "norm", "cell", "gamma", "beta", "show", "changes"], () => {
    if (State.get("shape") !== drawnShape) {
      drawnShape = State.get("shape");
      if (State.get("changes")) return State.set({ changes: "" });
    }
    applyChanges();
    colour();
    showNeurons();
    explain();
    return undefined;
  });
  State.watch(["norm", "gamma", "beta"], () => {
    if (before === null) return;
    before = null;
    colour();
  });
})();
