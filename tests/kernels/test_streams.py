"""What large outputs are: written past the caches, to the same bits as all others."""

from __future__ import annotations

import pytest

import normkit
from kernels.instruction_sets import available, run_under
from normkit.kernels import cpu

pytestmark = pytest.mark.skipif(cpu.LIBRARY is None, reason=cpu.DESCRIPTION)

# Rows and planes that are whole lines of memory, and others; in place, at any address, on one thread and on several.
_DIGEST = """
import hashlib, os, torch
from kernels import test_layer_norm2d, test_masked
from kernels.channel_norms import channel_case, in_channels_last
from kernels.row_norms import DTYPES, row_case
from normkit import functional as F
from normkit.kernels import cpu

def results(dtype):
    for norm in ("layer_norm", "rms_norm"):
        for width in (64, 96, 100, 768, 8192):
            yield from row_case(norm, 37, width, dtype).results()
            x, r = torch.randn(9, width, dtype=dtype, requires_grad=True), torch.randn(9, width, dtype=dtype)
            add = F.add_layer_norm if norm == "layer_norm" else F.add_rms_norm
            y, z = add(x, r, width, dropout_p=0.25)
            (y + z).float().square().sum().backward()
            yield from (y.detach(), z.detach(), x.grad)
    for shape in ((3, 32, 8, 8), (3, 6, 16, 12), (3, 6, 7, 7), (2, 8, 64, 65), (64, 32), (300, 1040), (2, 32, 2, 2)):
        for groups in (0, 2, shape[1]):
            for activation in (None, "relu", "silu", "gelu"):
                for channels_last in (False, True):
                    case = channel_case(shape, groups, dtype, channels_last=channels_last, given=groups == 0)
                    case.activation = activation
                    yield from case.results()
                    case.given = None
                    yield from case.results()
        x = torch.randn(shape).to(dtype)
        mask = torch.rand(shape[0], *shape[2:]) < 0.7
        for layout in (lambda t: t, in_channels_last):
            options = {"mask": mask, "activation": "relu"}
            w, b = torch.randn(shape[1]).to(dtype), torch.randn(shape[1]).to(dtype)
            yield from test_masked.results(layout(x), layout(x.sin()), [w, b], **options)
            yield F.batch_norm(layout(x), None, None, w, b, True, residual=layout(x.cos()), activation="relu")
        if len(shape) == 4:
            yield from test_layer_norm2d.make(shape, dtype).results()
            for start in (0, 1):
                out = torch.zeros(x.numel() + 1, dtype=dtype)[start:][:x.numel()].view(shape).copy_(x)
                yield F.layer_norm2d(out, out=out)
                yield F.group_norm(out, 2, activation="silu", out=out)
                yield F.layer_norm(out, shape[-1], out=out)

digest = hashlib.sha256()
one, several = (1, 3) if os.environ["NORMKIT_ISA"] == "avx2" else (3, 1)  # each dtype on both, of one set or the other
for threads, dtype in zip((one, several, one, several), DTYPES, strict=True):
    torch.set_num_threads(threads)
    torch.manual_seed(5)
    for t in results(dtype):
        digest.update(t.detach().contiguous().view(torch.uint8).numpy().tobytes())
print(cpu.LIBRARY.isa(), cpu.LIBRARY.stream_bytes(), digest.hexdigest())
"""


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
def test_the_same_bits(isa: str) -> None:
    if isa not in available():
        pytest.skip(f"this processor has no {isa}")
    always = run_under(_DIGEST, NORMKIT_ISA=isa, NORMKIT_STREAM_BYTES="1")
    never = run_under(_DIGEST, NORMKIT_ISA=isa, NORMKIT_STREAM_BYTES="0")
    assert always[:2] == [isa, "1"]
    assert never[:2] == [isa, str(2**63 - 1)]
    assert always[2] == never[2]


def test_info_says_from_where_on() -> None:
    script = "import normkit; print(normkit.info().splitlines()[-2])"
    told = " ".join(run_under(script, NORMKIT_STREAM_BYTES="3145728"))
    assert told.startswith("outputs: written past the caches from 3 MiB on")
    assert " ".join(run_under(script, NORMKIT_STREAM_BYTES="0")) == "outputs: all written to the caches"
    assert normkit.info().splitlines()[-2].startswith("outputs: ")
