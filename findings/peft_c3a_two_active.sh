#!/usr/bin/env bash
# Two active C3A adapters answer by their order, and otherwise than once they are merged.
#
# Expected: C3A adds a circulant update to the weight, so that two of them, active together, add up whatever their order,
# as those of FourierFT or LoRA do, and merging keeps the outputs.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: merged they add up; active and unmerged the outputs are others,
# and others again for the other order: the second one reads what the first one put out. Nothing is said.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import copy
import warnings

import peft
import torch
from torch import nn


def far(a, b):
    return float((a - b).norm() / b.norm())


print(peft.__version__)
for config in (
    peft.FourierFTConfig(target_modules=["0"], n_frequency=20),
    peft.C3AConfig(target_modules=["0"], block_size=8),
):
    torch.manual_seed(0)
    base, x = nn.Sequential(nn.Linear(16, 16)).eval(), torch.randn(6, 16)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        before = base(x)
        model = peft.get_peft_model(base, config, adapter_name="first")
        model.add_adapter("second", copy.deepcopy(config))
        alone = {}
        for name in ("first", "second"):
            model.set_adapter(name)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
            alone[name] = model.eval()(x) - before
        total = alone["first"] + alone["second"]
        together = {}
        for order in ("first", "second"), ("second", "first"):
            model.base_model.set_adapter(list(order))
            together[order[0]] = model(x) - before
        model.merge_adapter(["first", "second"])
        merged = model(x) - before
    name = config.peft_type.value
    print(
        f"{name}: away from the sum of both: active {far(together['first'], total):.2g}, merged {far(merged, total):.2g};",
        f"one order from the other {far(together['first'], together['second']):.2g}",
    )
    assert far(merged, total) < 1e-5
    if name == "C3A":
        assert far(together["first"], total) > 0.1 and far(together["first"], together["second"]) > 0.1
    else:
        assert far(together["first"], total) < 1e-5
PY
