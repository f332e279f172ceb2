#!/usr/bin/env bash
# merge_adapter() of an OFT adapter beside a LoRA changes the outputs, and unmerge_adapter() does not bring them back.
#
# Expected: in a PeftMixedModel, which is made for LoRA, LoHa, LoKr and OFT at once, merging keeps the outputs of the
# active adapters, and unmerging gives back what was there, as with LoRA beside LoHa.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: with OFT the outputs are others after merge_adapter() and
# after unmerge_adapter(), without a word; merge_and_unload() is right. Of two OFT adapters that are active together, which
# are multiplied, merging takes the other order.
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
from torch import nn

torch.manual_seed(0)
base, x = nn.Sequential(nn.Linear(16, 16)).eval(), torch.randn(6, 16)


def far(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
def compared(one, other, mixed):
    torch.manual_seed(1)
    model = peft.get_peft_model(copy.deepcopy(base), one, adapter_name="first", mixed=mixed)
    model.add_adapter("second", other)
    for name in ("first", "second"):
        model.set_adapter(name)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    (model if mixed else model.base_model).set_adapter(["first", "second"])
    y = model.eval()(x)
    whole = far(copy.deepcopy(model).merge_and_unload(adapter_names=["first", "second"])(x), y)
    model.merge_adapter(["first", "second"])
    merged = far(model(x), y)
    model.unmerge_adapter()
    return whole, merged, far(model(x), y)


def lora():
    return peft.LoraConfig(target_modules=["0"], r=4)


def oft():
    return peft.OFTConfig(target_modules=["0"], oft_block_size=4, r=0)


print(peft.__version__, "outputs are away by, after merge_and_unload, merge_adapter, unmerge_adapter:")
results = {
    "LoRA, LoHa": compared(lora(), peft.LoHaConfig(target_modules=["0"], r=4), True),
    "LoRA, OFT": compared(lora(), oft(), True),
    "OFT, OFT": compared(oft(), oft(), False),
}
for name, distances in results.items():
    print(f"{name}:", *(f"{distance:.2g}" for distance in distances))
assert max(results["LoRA, LoHa"]) < 1e-5
assert results["LoRA, OFT"][0] < 1e-5 and min(results["LoRA, OFT"][1:]) > 0.05
assert results["OFT, OFT"][1] > 0.05
PY
