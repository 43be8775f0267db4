"""These tests need the compiled kernels; where there are none, they say why."""

import pytest

from normkit.kernels import cpu, eager


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if cpu.LIBRARY is not None:
        return
    for item in items:
        if item.path.parent.name == "kernels" and "needs_no_library" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason=cpu.DESCRIPTION))


@pytest.fixture(params=["libtorch", "python"])
def each_way_to_call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Calls through ``normkit._eager``, whose backward is a node of libtorch's, and calls through ``cpu``."""
    way: str = request.param
    if way == "python":
        monkeypatch.setattr(eager, "LIBRARY", eager.ABSENT)
    elif eager.LIBRARY is eager.ABSENT:
        pytest.skip(eager.DESCRIPTION)
    return way
