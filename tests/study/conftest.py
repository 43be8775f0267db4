"""The learning page, open in a real browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from browser import Visit, chromium, visit
from normkit.study import write_study
from study.example import example_verdicts


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_study(example_verdicts(), tmp_path_factory.mktemp("study") / "study.html").as_uri()


@pytest.fixture(scope="session")
def desk(browser: Browser, address: str) -> Iterator[Visit]:
    found = visit(browser, address, viewport={"width": 1280, "height": 900})
    yield found
    found.page.context.close()


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
