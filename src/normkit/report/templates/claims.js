"use strict";
(() => {
  const claims = [...document.querySelectorAll("details.claim:not(.pilot)")];
  const pilots = [...document.querySelectorAll("details.pilot")];
  const groups = [...document.querySelectorAll(".document")];
  const buttons = [...document.querySelectorAll("button[data-evidence]")];
  const select = document.getElementById("document");
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  const all = document.getElementById("all");

  // The state of the filters is in the address, so that a view can be shared: ?evidence=holds,fails&document=…&words=…
  const kept = new URLSearchParams(location.search);
  const wanted = (kept.get("evidence") ?? "").split(",").filter(Boolean);
  if (wanted.length) for (const b of buttons) b.setAttribute("aria-pressed", String(wanted.includes(b.dataset.evidence)));
  if ([...select.options].some((option) => option.value === kept.get("document"))) select.value = kept.get("document");
  search.value = kept.get("words") ?? "";

  const isOn = (button) => button.getAttribute("aria-pressed") === "true";
  function apply() {
    const on = new Set(buttons.filter(isOn).map((button) => button.dataset.evidence));
    const everything = on.size === buttons.length;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    for (const claim of claims) {
      const group = claim.closest(".document").dataset.document;
      const fits =
        (everything || on.has(claim.dataset.evidence)) &&
        (!select.value || select.value === group) &&
        words.every((word) => claim.dataset.search.includes(word));
      claim.hidden = !fits;
      n += fits;
    }
    for (const group of groups) group.hidden = !group.querySelector("details.claim:not([hidden])");
    shown.textContent = `${n} of ${claims.length} claims`;
    const state = new URLSearchParams();
    if (!everything) state.set("evidence", [...on].join(","));
    if (select.value) state.set("document", select.value);
    if (search.value) state.set("words", search.value);
    const query = state.toString();
    history.replaceState(null, "", (query ? `?${query}` : location.pathname) + location.hash);
  }

  for (const button of buttons) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!isOn(button)));
      apply();
    });
  }
  select.addEventListener("change", apply);
  search.addEventListener("input", apply);
  all.addEventListener("click", () => {
    const open = all.textContent === "Open all";
    for (const one of [...claims, ...pilots]) one.open = open;
    all.textContent = open ? "Close all" : "Open all";
  });

  // A claim or a trial named in the address is shown and open, whatever the filters say.
  function goTo() {
    const one = [...claims, ...pilots].find((one) => one.id === decodeURIComponent(location.hash.slice(1)));
    if (!one) return;
    one.hidden = false;
    const group = one.closest(".document");
    if (group) group.hidden = false;
    one.open = true;
    one.scrollIntoView();
  }
  for (const one of [...claims, ...pilots]) {
    one.querySelector("summary").addEventListener("click", () => {
      if (!one.open) history.replaceState(null, "", `${location.pathname}${location.search}#${one.id}`);
    });
  }
  addEventListener("hashchange", goTo);
  addEventListener("beforeprint", () => [...claims, ...pilots].forEach((one) => (one.open = true)));

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(button.previousElementSibling);
        button.textContent = "Selected";
      }
    });
  }

  const field = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => {
      const { columns, rows } = JSON.parse(document.getElementById("records").textContent);
      const ids = button.dataset.download.split(" ").filter(Boolean);
      const some = rows.filter((row) => !ids.length || ids.includes(row[0]));
      // Columns that are empty in all of these rows are of other experiments.
      const used = columns.map((_, i) => i < 4 || some.some((row) => row[i] !== null));
      const lines = [columns, ...some].map((row) => row.filter((_, i) => used[i]).map(field).join(",") + "\r\n");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(lines, { type: "text/csv" }));
      link.download = `normkit-claims${ids.length ? `-${ids.join("-")}` : ""}.csv`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
  apply();
  goTo();
})();
