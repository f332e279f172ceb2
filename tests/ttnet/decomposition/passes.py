"""The two ways of passing over an unfolding: by libraries, and by code compiled for the purpose."""

import pytest

from ttnet.decomposition import compiled_passes
from ttnet.numerics import machine_code

PASSES = [
    "libraries",
    pytest.param(
        "compiled", marks=pytest.mark.skipif(not machine_code.is_available(), reason="llvmlite (extra fast) is missing")
    ),
]


def choose_passes(patch, name):
    """Take one way for tensors of any size, and for compiled passes many blocks and three threads."""
    patch.delenv("TTNET_BLAS", raising=False)
    if name == "libraries":
        for limit in ("LEAST_NUMEL", "WORTH_COMPILING"):
            patch.setattr(compiled_passes, limit, 2**62)
        return
    for limit, value in (("LEAST_NUMEL", 0), ("LEAST_COLUMNS", 1), ("BLOCK_NUMEL", 128), ("LEAST_ROWS", 16)):
        patch.setattr(compiled_passes, limit, value)
    patch.setattr(compiled_passes, "THREAD_NUMEL", 64)
    patch.setattr(compiled_passes, "thread_count", lambda: 3)
