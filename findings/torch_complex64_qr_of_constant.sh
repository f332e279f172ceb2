#!/usr/bin/env bash
# QR and singular values of a constant matrix of complex64 are NaN in torch on the CPU.
#
# Expected: rank 1, so one singular value and zeros, in every dtype; a triangle with one row that is not zero.
# Seen with torch 2.13.0 (MKL): torch.linalg.qr gives NaN in both factors, and so does svdvals, which begins with a QR
# factorisation where one side is almost twice the other; svd raises that it failed to converge. complex128, float32
# and numpy's OpenBLAS in complex64 answer as expected. MKL_CBWR=COMPATIBLE makes MKL take the same instructions on
# every processor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$folder"
MKL_CBWR=COMPATIBLE "$folder/env/bin/python" -W ignore - 2> /dev/null <<'PY'
import numpy as np
import torch

torch.set_num_threads(1)
x = torch.full((14, 7), 0.3 + 0.1j, dtype=torch.complex64)
q, r = torch.linalg.qr(x)
values = torch.linalg.svdvals(x)
try:
    told = torch.linalg.svd(x, full_matrices=False).S
except torch.linalg.LinAlgError as error:
    told = str(error)
expected = torch.from_numpy(np.linalg.svd(x.numpy(), compute_uv=False))
print(torch.__version__, "svdvals:", values, "svd:", told, "numpy:", expected)
assert not torch.isfinite(torch.view_as_real(r)).all()
assert values.isnan().all()
assert "failed to converge" in told
for other in (torch.complex128, torch.float32):
    right = torch.linalg.svdvals(torch.full((14, 7), abs(0.3 + 0.1j), dtype=other))
    assert torch.allclose(right.float(), expected, atol=1e-5)
PY
