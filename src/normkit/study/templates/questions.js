"use strict";
// Predict, then reveal: the answer opens once the reader has committed to one.
(() => {
  const score = document.getElementById("score");
  const told = new Map();
  const say = () => {
    const right = [...told.values()].filter(Boolean).length;
    score.textContent = told.size ? `${right} of ${told.size} predicted as it turned out.` : "";
  };
  for (const form of document.querySelectorAll("form.question")) {
    const answer = form.querySelector(".answer");
    const button = form.querySelector("button");
    const hint = form.querySelector(".hint");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const picked = new FormData(form).get("prediction");
      if (picked === null) {
        hint.hidden = false;
        form.querySelector("input").focus();
        return;
      }
      hint.hidden = true;
      const right = picked === form.dataset.right;
      told.set(form.id, right);
      form.dataset.outcome = right ? "right" : "wrong";
      answer.querySelector(".outcome").textContent = right ? "As you said." : "Not so.";
      answer.hidden = false;
      button.disabled = true;
      for (const input of form.querySelectorAll("input")) input.disabled = true;
      answer.focus();
      say();
    });
  }
  const goTo = (target) => {
    if (target.tagName === "DETAILS") target.open = true;
    target.scrollIntoView();
    target.setAttribute("tabindex", "-1");
    target.focus({ preventScroll: true });
  };
  addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    const target = link && document.getElementById(link.getAttribute("href").slice(1));
    if (!target) return;
    event.preventDefault(); // the address holds what the reader has set
    goTo(target);
  });
  // An address that names a part of the page.
  const goToPart = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target) goTo(target);
  };
  addEventListener("hashchange", goToPart);
  goToPart();
  State.open();
})();
