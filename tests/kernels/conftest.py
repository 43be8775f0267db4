"""These tests need the compiled kernels; where there are none, they say why."""

import pytest

from normkit.kernels import cpu


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if cpu.LIBRARY is not None:
        return
    for item in items:
        if item.path.parent.name == "kernels" and "needs_no_library" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason=cpu.DESCRIPTION))
