#!/usr/bin/env bash
# torch.func.functional_call leaves its tensor in a module that has one submodule under two names.
#
# Expected: after the call the module has its own parameters again, whatever was given for them.
# Seen with torch 2.13.0: where a submodule is registered twice, the tensor that was given for its parameter stays in
# the parameter's place, as a plain tensor, so that the module no longer has a parameter there; of a call under vmap a
# tensor stays that cannot be used outside of it. With two parameters that are one tensor in different submodules, the
# module is as it was.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" - <<'PY'
import torch
from torch import nn
from torch.func import functional_call


class Twice(nn.Module):
    def __init__(self, one_module: bool) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = self.first if one_module else nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


x, given = torch.ones(1, 2), torch.zeros(2, 2)
kept = {}
for one_module in (True, False):
    model = Twice(one_module)
    before = model.first.weight
    answer = functional_call(model, {"first.weight": given}, (x,))
    assert not answer.any()  # both uses had what was given
    kept[one_module] = (model.first.weight is before, model.first.weight is given, isinstance(model.first.weight, nn.Parameter))
print(torch.__version__, "own parameter back, given one there, a parameter there:", kept)
assert kept == {True: (False, True, False), False: (True, False, True)}
PY
