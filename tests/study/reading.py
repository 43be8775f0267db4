"""What tests read off the learning page."""

from __future__ import annotations

import numpy as np
from playwright.sync_api import Locator, Page

from normkit.study.examples import SIZES


def picture(values: np.ndarray, shape: str) -> np.ndarray:
    """From the page's order (example, position, channel) to (N, C) or (N, C, positions), as the reference takes it."""
    n, p, c = SIZES[shape]
    cube = values.reshape(n, p, c)
    return cube[:, 0, :] if shape == "nc" else np.moveaxis(cube, 2, 1)


def tensor(page: Page) -> Locator:
    return page.locator("#tensor-view")


def exact(page: Page, name: str) -> float:
    return float(page.locator(f"#tensor strong[data-value={name}]").get_attribute("data-exact") or "nan")
