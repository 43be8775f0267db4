"use strict";
// What the reader has set, kept in the address: a link shows somebody else the same page.
const State = (() => {
  const defaults = new Map();
  const values = new Map();
  const listeners = [];
  let quiet = true;

  const given = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

  // allowed: a list, or a function of the text that gives the value, or undefined for none.
  function define(name, initial, allowed) {
    const read = typeof allowed === "function" ? allowed : (text) => allowed.find((one) => String(one) === text);
    defaults.set(name, initial);
    const found = given.has(name) ? read(given.get(name)) : undefined;
    values.set(name, found === undefined ? initial : found);
  }

  const get = (name) => values.get(name);

  function set(changes) {
    for (const [name, value] of Object.entries(changes)) values.set(name, value);
    if (!quiet) {
      const query = new URLSearchParams();
      for (const [name, value] of values) if (value !== defaults.get(name)) query.set(name, value);
      const text = query.toString();
      history.replaceState(null, "", text ? `#${text}` : location.href.split("#")[0] + "#");
    }
    for (const [names, act] of listeners) if (names.some((name) => name in changes)) act();
  }

  function watch(names, act) {
    listeners.push([names, act]);
    act();
  }

  // From here on changes go into the address.
  function open() {
    quiet = false;
  }

  // A link opened where the page is open already: the browser itself would not load it anew.
  addEventListener("hashchange", () => location.hash.includes("=") && location.reload());

  return { define, get, set, watch, open };
})();

// A small hand for making elements: make("td", { class: "x" }, "text", child)
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "circle", "line", "text", "g", "rect", "polygon", "polyline"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// −1.234 with a real minus sign, so many digits after the point.
function number(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const rounded = value.toFixed(digits);
  return (Number(rounded) === 0 ? (0).toFixed(digits) : rounded).replace("-", "−");
}

// Buttons of which one is pressed; arrow keys move between them.
function choice(host, label, options, name) {
  const buttons = options.map(({ value, text }) =>
    make("button", { type: "button", role: "radio", "data-value": value, onclick: () => State.set({ [name]: value }) }, text));
  const group = make("div", { role: "radiogroup", "aria-label": label, class: "choice" }, ...buttons);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const open = buttons.filter((button) => !button.hidden);
    const here = open.indexOf(document.activeElement);
    if (!step || here < 0) return;
    event.preventDefault();
    const next = open[(here + step + open.length) % open.length];
    next.click();
    next.focus();
  });
  host.append(group);
  State.watch([name], () => {
    const chosen = buttons.find((button) => button.dataset.value === String(State.get(name)));
    // Where what is chosen stands in another group, the tab key still stops at this one.
    const stop = chosen ?? buttons.find((button) => !button.hidden);
    for (const button of buttons) {
      button.setAttribute("aria-checked", button === chosen);
      button.tabIndex = button === stop ? 0 : -1;
    }
  });
  return buttons;
}

// A slider over a list of values, or from low to high; says its value in words to those who listen.
function slider(host, label, name, { values, low, high, step, format = String }) {
  const id = `slider-${name}`;
  const input = make("input", values
    ? { id, type: "range", min: 0, max: values.length - 1, step: 1 }
    : { id, type: "range", min: low, max: high, step });
  const output = make("output", { for: id });
  input.addEventListener("input", () => State.set({ [name]: values ? values[Number(input.value)] : Number(input.value) }));
  const row = make("div", { class: "slider", "data-slider": name }, make("label", { for: id }, label), input, output);
  host.append(row);
  State.watch([name], () => {
    const value = State.get(name);
    input.value = values ? values.indexOf(value) : value;
    output.textContent = format(value);
    input.setAttribute("aria-valuetext", format(value));
  });
  return row;
}
