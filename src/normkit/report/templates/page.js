"use strict";
(() => {
  const palettes = JSON.parse(document.getElementById("palettes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const hidden = new Set(); // norms
  const sources = new Map(); // canvas -> its figure's JSON text
  const near = new Set(); // canvases in or near the window
  const widths = new Map(); // canvas -> the width it was last drawn at
  const fresh = new Set(); // canvases that show what they should
  for (const source of document.querySelectorAll("script[data-figure]")) {
    sources.set(document.getElementById(source.dataset.figure), source.textContent);
  }

  // A figure names its colours "@ink", "@blue"; here they become the values for the reader's scheme.
  function figure(text) {
    const palette = palettes[dark.matches ? "dark" : "light"];
    const named = (key, value) =>
      typeof value === "string" && value[0] === "@" && Object.hasOwn(palette, value.slice(1))
        ? palette[value.slice(1)]
        : value;
    const { data, layout } = JSON.parse(text, named);
    return { data: data.filter((trace) => !hidden.has(trace.legendgroup)), layout };
  }

  function draw(canvas) {
    const { data, layout } = figure(sources.get(canvas));
    fresh.add(canvas);
    widths.set(canvas, canvas.clientWidth);
    Plotly.react(canvas, data, layout, { displayModeBar: false, responsive: false });
    sizes.observe(canvas);
  }

  const drawNear = () => [...near].filter((canvas) => !fresh.has(canvas)).forEach(draw);
  function redraw() {
    fresh.clear();
    drawNear();
  }

  // Figures are drawn when they come near the window, and follow the width of their box.
  const windows = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) near[isIntersecting ? "add" : "delete"](target);
      drawNear();
    },
    { rootMargin: "600px" },
  );
  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const width = target.clientWidth;
      if (width > 0 && width !== widths.get(target)) {
        widths.set(target, width);
        Plotly.Plots.resize(target);
      }
    }
  });
  for (const canvas of sources.keys()) windows.observe(canvas);
  dark.addEventListener("change", redraw);
  addEventListener("beforeprint", () => [...sources.keys()].forEach(draw));

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!shown));
      if (shown) hidden.add(button.dataset.norm);
      else hidden.delete(button.dataset.norm);
      redraw();
    });
  }

  // One task is picked for all tabbed sections at once.
  const tabs = [...document.querySelectorAll("[role=tab]")];
  function pick(task) {
    for (const tab of tabs) {
      const picked = tab.dataset.task === task;
      const siblings = [...tab.parentElement.children];
      if (!siblings.some((sibling) => sibling.dataset.task === task)) continue;
      tab.setAttribute("aria-selected", String(picked));
      tab.tabIndex = picked ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !picked;
    }
  }
  for (const tab of tabs) {
    tab.addEventListener("click", () => pick(tab.dataset.task));
    tab.addEventListener("keydown", (event) => {
      const siblings = [...tab.parentElement.children];
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = siblings[(siblings.indexOf(tab) + step + siblings.length) % siblings.length];
      next.focus();
      pick(next.dataset.task);
    });
  }
  if (tabs.length) pick(tabs[0].dataset.task);

  const field = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const forms = {
    csv: ({ columns, rows }) => ["text/csv", [columns, ...rows].map((row) => row.map(field).join(",") + "\r\n")],
    jsonl: ({ columns, rows }) => [
      "application/x-ndjson",
      rows.map((row) => JSON.stringify(Object.fromEntries(row.map((value, i) => [columns[i], value]))) + "\n"),
    ],
  };
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => {
      const form = button.dataset.download;
      const [type, lines] = forms[form](JSON.parse(document.getElementById("runs").textContent));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(lines, { type }));
      link.download = `normkit-runs.${form}`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
})();
