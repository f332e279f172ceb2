#!/usr/bin/env bash
# A saved FRoD adapter, with its projections, ruins a model whose weights differ by a millionth.
#
# Expected: save_projection=True, the default, "guarantees that we can reload the adapter on all system configurations";
# an adapter that was never trained, and changes nothing, changes nothing on weights that differ by 1e-6 either, as those
# of another dtype or machine do by more.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: put on the weights times (1 + 1e-6 noise) it changes the
# outputs by more than they are large. A LoRA changes nothing there, and on the same bits FRoD does not either. Of its
# two projections one is saved, and the other one computed anew from the weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - 2>/dev/null <<'PY'
import copy

import peft
import torch
from safetensors.torch import load_file
from torch import nn

torch.manual_seed(0)
base, x = nn.Sequential(nn.Linear(32, 32, bias=False)), torch.randn(16, 32)
other = copy.deepcopy(base)
other[0].weight.data *= 1 + 1e-6 * torch.randn(32, 32)


@torch.no_grad()
def difference(model, reference):
    y = reference(x)
    return float((model(x) - y).norm() / y.norm())


for config in (peft.LoraConfig(target_modules=["0"]), peft.FrodConfig(target_modules=["0"])):
    name = config.peft_type.value
    peft.get_peft_model(copy.deepcopy(base), config).save_pretrained(name)
    same, near = (peft.PeftModel.from_pretrained(copy.deepcopy(m), name).eval() for m in (base, other))
    print(peft.__version__, name, "same weights:", difference(same, base), "1e-6 away:", difference(near, other))
    assert difference(same, base) < 1e-5
    assert difference(near, other) < 1e-5 if name == "LORA" else difference(near, other) > 0.5
print("saved:", sorted(load_file("FROD/adapter_model.safetensors")))
assert any("frod_V" in key for key in load_file("FROD/adapter_model.safetensors"))
PY
