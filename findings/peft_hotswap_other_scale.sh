#!/usr/bin/env bash
# hotswap_adapter puts in a LoRA with a rank_pattern at another strength than it was trained with, and says nothing.
#
# Expected: after the swap the model answers as if the second adapter had been loaded afresh, or the swap is refused, as
# it is for another alpha_pattern, use_rslora or use_dora.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: ranks of single modules are taken over with their matrices,
# but their scale stays alpha / r of the whole config, so that a module of rank 2 in a config of rank 4 counts half. Of
# another rank everywhere the scale is right. An adapter that was started by PiSSA passes the same check, though its base
# weights are not those of the model that it is swapped into.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import copy

import peft
import torch
from peft.utils.hotswap import hotswap_adapter
from torch import nn

torch.manual_seed(0)
base, x = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)), torch.randn(5, 16)


def saved(name, **options):
    config = peft.LoraConfig(**{"target_modules": ["0", "2"], "r": 4, "lora_alpha": 8} | options)
    model = peft.get_peft_model(copy.deepcopy(base), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(name)
    return name


@torch.no_grad()
def distance(second):
    fresh = peft.PeftModel.from_pretrained(copy.deepcopy(base), second).eval()(x)
    model = peft.PeftModel.from_pretrained(copy.deepcopy(base), "first").eval()
    hotswap_adapter(model, second, "default")
    return float((model(x) - fresh).norm() / fresh.norm())


saved("first")
print(peft.__version__)
for name, options in (
    ("rank 2", {"r": 2}),
    ("alpha 32", {"lora_alpha": 32}),
    ("rank pattern", {"rank_pattern": {"0": 2}}),
    ("pissa", {"init_lora_weights": "pissa"}),
):
    far = distance(saved(name, **options))
    print(f"{name}: outputs differ from those of a fresh load by {far:.2g}")
    assert far < 1e-5 if name in ("rank 2", "alpha 32") else far > 0.05
try:
    distance(saved("alpha pattern", alpha_pattern={"0": 64}))
except ValueError as error:
    print("alpha pattern:", error)
else:
    raise AssertionError("another alpha_pattern is taken now")
PY
