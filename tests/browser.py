"""Pages in a real headless Chromium: how to start it, and what every page must keep to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, chromium-browser or google-chrome on PATH"),
]

# Every element with text of its own whose contrast with what lies behind it is below 4.5.
DIM_TEXT = """() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
  };
  const found = [];
  for (const element of document.body.querySelectorAll("h1, h2, h3, p, a, th, td, span, li, dd, dt, button, text")) {
    const own = [...element.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
    if (!own || !element.getClientRects().length || element.closest("#matrix")) continue;
    const style = getComputedStyle(element);
    const ink = luminance(rgba(element.tagName === "text" ? style.fill : style.color));
    const paper = luminance(behind(element));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) found.push([element.tagName, element.textContent.slice(0, 40), contrast]);
  }
  return found;
}"""


@dataclass
class Visit:
    """One open page and all that went wrong on it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, closed at the end."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def visit(browser: Browser, address: str, **options: Any) -> Visit:
    """Open the page and draw all of it."""
    page = browser.new_context(**options).new_page()
    found = Visit(page)

    def refuse(dialog: Dialog) -> None:
        found.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", refuse)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("console", lambda line: found.errors.append(line.text) if line.type in ("error", "warning") else None)
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(address)
    return found


def wait_until(page: Page, condition: str) -> None:
    """Polls from outside: the page's policy forbids the evaluation that playwright's own waiting uses."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never came true: {condition}")


def overflow(page: Page) -> float:
    width: float = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return width
