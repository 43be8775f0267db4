"""The learning page, open in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

from browser import Visit
from normkit.study import write_study
from study.example import example_verdicts


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_study(example_verdicts(), tmp_path_factory.mktemp("study") / "study.html").as_uri()


@pytest.fixture
def page(desk: Visit, address: str) -> Page:
    """The page as it opens."""
    desk.page.goto("about:blank")
    desk.page.goto(address)
    return desk.page


@pytest.fixture
def scripts(desk: Visit) -> Page:
    """The page for its functions alone, whatever it shows."""
    return desk.page
