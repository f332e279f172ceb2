#!/usr/bin/env bash
# One step of AdamW makes the orthogonal weight of torch.nn.utils.parametrizations.orthogonal zero.
#
# Expected: whatever an optimizer does to the parameter behind it, the weight has orthonormal rows or columns; weight decay
# at most draws it back to where it began.
# Seen with torch 2.13.0: the map "householder", which is the default for all that is not square, keeps its signs in the
# diagonal of the parameter, as 1 and -1, and casts them to integers. They have no gradient, but weight decay, 0.01 in
# AdamW if nothing is said, makes them 0.9999, and the cast 0: the whole weight is 0 after the first step, stays so, and no
# gradient comes through it. Nothing is said. Adam, and the maps "cayley" and "matrix_exp" with AdamW, keep it orthogonal.
# Why it matters: LoReFT learns its low-rank subspace by this parametrization, and AdamW decays all weights unless it is
# told otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$folder"
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W error::UserWarning - <<'PY'
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal


def train(optimizer, steps, **options):
    torch.manual_seed(0)
    layer = orthogonal(nn.Linear(32, 4, bias=False), **options)
    before = layer.weight.detach().clone()
    optimizer = optimizer(layer.parameters(), lr=1e-3)
    x, y = torch.randn(16, 32), torch.randn(16, 4)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
    moved = bool((layer.weight != before).any())
    gram = layer.weight @ layer.weight.mT
    orthonormal = torch.allclose(gram, torch.eye(4), atol=1e-5)
    return moved, orthonormal, float(layer.weight.detach().norm())


seen = {}
for name in ("Adam", "AdamW"):
    for kind in (None, "cayley", "matrix_exp"):
        for steps in (1, 20):
            seen[name, kind, steps] = result = train(getattr(torch.optim, name), steps, orthogonal_map=kind)
            print(torch.__version__, name, kind or "default", f"steps {steps}: moved, orthonormal, norm", result)
for (name, kind, _), (moved, orthonormal, norm) in seen.items():
    if name == "AdamW" and kind is None:
        assert moved and not orthonormal and norm == 0
    else:
        assert moved and orthonormal and abs(norm - 2) < 1e-5
PY
