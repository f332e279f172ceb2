#!/usr/bin/env bash
# A product of a CPU matrix with a tensor on the meta device gives a CPU tensor, of memory that nobody wrote.
#
# Expected: an error, as for sums, or a result on the meta device, as for batched products.
# Seen with torch 2.13.0 (CPU): mm, addmm, F.linear and tensordot return a CPU tensor of the right shape and raise
# nothing; bmm and einsum return one on the meta device; sums and elementwise products raise.
# Why it matters: accelerate leaves meta tensors where it has offloaded weights, and loads them around the call of the
# module that holds them. Parameters in a ParameterList, which is never called, are never loaded (accelerate 1.15.0), so
# that a layer built on one answers with whatever the memory held.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
"$folder/env/bin/python" - <<'PY'
import accelerate
import torch
from torch import nn
from torch.nn import functional as F

x, w = torch.ones(2, 3), torch.empty(4, 3, device="meta")
products = {
    "mm": torch.mm(x, w.T),
    "addmm": torch.addmm(torch.zeros(2, 4), x, w.T),
    "F.linear": F.linear(x, w),
    "tensordot": torch.tensordot(x, w.T, dims=1),
    "bmm": torch.bmm(x[None], w.T[None]),
    "einsum": torch.einsum("ij,kj->ik", x, w),
}
devices = {name: result.device.type for name, result in products.items()}
print(torch.__version__, devices)
assert devices == {"mm": "cpu", "addmm": "cpu", "F.linear": "cpu", "tensordot": "cpu", "bmm": "meta", "einsum": "meta"}
for name, operation in {"sum": torch.add, "elementwise product": torch.mul}.items():
    try:
        operation(torch.ones(4, 3), w)
    except RuntimeError as error:
        print(name, "raises:", error)
    else:
        raise AssertionError(name)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.factors = nn.ParameterList([nn.Parameter(torch.ones(3, 4))])

    def forward(self, x):
        return x @ self.factors[0]


layer = Layer()
assert torch.equal(layer(x), torch.full((2, 4), 3.0))
accelerate.cpu_offload(layer, execution_device="cpu")
result = layer(x)  # no error
print("accelerate", accelerate.__version__, "offloaded list:", result.device, layer.factors[0].device)
assert result.device.type == "cpu"
assert layer.factors[0].is_meta
PY
