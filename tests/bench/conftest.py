"""Small tensors on one thread: on a machine that other work keeps busy, parallel regions wait for their last thread."""

from collections.abc import Iterator

import pytest

from normkit.bench.threads import thread_count


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with thread_count(1):
        yield
