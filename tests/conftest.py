"""What every test may ask for: a device, a fixed seed, memory that is poisoned before it is written, a browser."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from browser import Visit

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_configure() -> None:
    # A shell's background job ignores Ctrl-C, and what it starts does, too: the tests of Ctrl-C must not inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # One thread a process where several processes share the cores.
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device of this machine in turn."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _same_random_numbers_every_time() -> None:
    torch.manual_seed(20260101)


@pytest.fixture(autouse=True)
def _one_cluster_at_a_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """What looks for a Ray cluster on this machine must not find that of a test in another process."""
    if request.node.get_closest_marker("cluster") is None:
        yield
        return
    shared = request.getfixturevalue("tmp_path_factory").getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with open(shared / "cluster.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real headless Chromium. Of a module: while it is open, nothing else in its process can run an event loop."""
    from browser import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def desk(browser: Browser, address: str) -> Iterator[Visit]:
    """The page at the module's own ``address``, on a desk's screen."""
    from browser import visit

    found = visit(browser, address, viewport={"width": 1280, "height": 900})
    yield found
    found.page.context.close()


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that torch allocates without filling it holds NaN (floats) or the largest integer.

    What is read before it is written then shows in the result. This reaches allocations in compiled code too,
    which a replaced ``torch.empty`` would not.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(5).isnan().all(), "this torch does not fill uninitialized memory"
        yield
    finally:
        torch.use_deterministic_algorithms(before)
