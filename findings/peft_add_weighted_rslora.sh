#!/usr/bin/env bash
# add_weighted_adapter by "cat" or "svd" makes rank-stabilised adapters sqrt(r) times too strong, and loses lora_bias.
#
# Expected: with weights 1 and 0, which are to give back the first adapter, its change of the outputs, as for plain LoRA.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: the new adapter has use_rslora too and an alpha that is its
# rank, and so a scale of sqrt(r) where it was to be 1: of two adapters of rank 4 "cat" changes outputs 2.83 times as
# much, "svd" to rank 16 four times, without a word. With lora_bias=True the biases of the adapters are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import math

import peft
import torch
from torch import nn


@torch.no_grad()
def change_of_one_and_zero(kind, **options):
    """Give what the sum with weights 1 and 0 changes, over what the first adapter changes, and their angle's cosine."""
    torch.manual_seed(0)
    base, x = nn.Sequential(nn.Linear(16, 16)).eval(), torch.randn(64, 16)
    before = base(x)
    config = peft.LoraConfig(target_modules=["0"], r=4, lora_alpha=8, **options)
    model = peft.get_peft_model(base, config, adapter_name="first")
    model.add_adapter("second", config)
    for name in ("second", "first"):
        model.set_adapter(name)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    first = model.eval()(x) - before
    extra = {"svd_rank": 16} if kind == "svd" else {}
    model.add_weighted_adapter(["first", "second"], [1.0, 0.0], "sum", combination_type=kind, **extra)
    model.set_adapter("sum")
    change = model(x) - before
    return float(change.norm() / first.norm()), float((change * first).sum() / change.norm() / first.norm())


print(peft.__version__)
for kind, rank in (("cat", 8), ("svd", 16)):
    for options, wanted in (({}, 1.0), ({"use_rslora": True}, math.sqrt(rank))):
        factor, cosine = change_of_one_and_zero(kind, **options)
        print(kind, options, f"changes outputs {factor:.4f} times as much, cosine {cosine:.4f}")
        assert abs(factor - wanted) < 1e-3 and cosine > 0.9999
    factor, cosine = change_of_one_and_zero(kind, lora_bias=True)
    print(kind, "lora_bias", f"{factor:.4f} times, cosine {cosine:.4f}")
    assert cosine < 0.999
PY
