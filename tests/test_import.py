"""What `import normkit` costs, loads and says."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

import normkit

HEAVY = ("scipy", "sklearn", "plotly", "jinja2", "typer", "rich", "triton", "ray", "pyarrow", "pandas")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("what", ["normkit", "normkit.nn, normkit.functional, normkit.surgery"])
def test_nothing_heavy_is_loaded_and_nothing_is_printed(what: str) -> None:
    """Beside what torch itself loads."""
    code = f"import torch, sys; before = set(sys.modules); import {what}; new = set(sys.modules) - before"
    out = run(f"{code}; bad = [m for m in {HEAVY!r} if m in new]; assert not bad, bad")
    assert out == ""


def test_import_takes_at_most_50_ms_more_than_torch() -> None:
    # Measured inside one process, after torch and numpy, so that the machine's load weighs little; the median of
    # five processes, because one may be disturbed.
    code = "import torch, numpy, time; t = time.perf_counter(); import normkit; print(time.perf_counter() - t)"
    seconds = statistics.median(float(run(code)) for _ in range(5))
    assert seconds < 0.050, f"import normkit took {seconds * 1e3:.0f} ms beyond torch and numpy"


def test_every_public_name_is_there() -> None:
    for name in normkit.__all__:
        assert getattr(normkit, name) is not None
    assert sorted(dir(normkit)) == sorted(normkit.__all__)
    names = "layer_norm rms_norm batch_norm group_norm instance_norm layer_norm2d add_layer_norm add_rms_norm"
    assert all(callable(getattr(normkit.functional, name)) for name in names.split())
    assert callable(normkit.lab.compare)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'normkit' has no attribute 'layernorm'"):
        _ = normkit.layernorm


def test_info_names_versions_and_path() -> None:
    text = normkit.info()
    assert text.startswith(f"normkit {normkit.__version__}\n")
    assert "path: " in text
