#!/usr/bin/env bash
# Merging a LoRA with layer_replication gives another model, and a second adapter changes what the first one answers.
#
# Expected: merge_and_unload() keeps the outputs, as it does without replication, and add_adapter() leaves the adapters
# that are there as they were.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: the copies of a layer share its weights, as they are to, so
# that the updates of all copies end in the one weight when they are merged, and each copy has those of the others too.
# Adding a second adapter replicates the layers anew: four become other four. No error, no warning.
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
from transformers import LlamaConfig, LlamaForCausalLM

shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, bos_token_id=1, eos_token_id=2, **shape)).eval()
x = torch.randint(3, 64, (2, 9))


@torch.no_grad()
def outputs(model):
    return model.eval()(x).logits


def distance(y, reference):
    return float((y - reference).norm() / reference.norm())


print(peft.__version__)
for replication in (None, [[0, 2], [1, 3]]):
    lora = peft.LoraConfig(target_modules=["q_proj"], layer_replication=replication, init_lora_weights=False)
    torch.manual_seed(1)
    model = peft.get_peft_model(copy.deepcopy(base), lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    before = outputs(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        merged = distance(outputs(copy.deepcopy(model).merge_and_unload()), before)
        model.add_adapter("second", lora)
    model.set_adapter("default")
    again = distance(outputs(model), before)
    print(f"layer_replication={replication}: merged {merged:.2g} away, with a second adapter {again:.2g} away")
    assert max(merged, again) < 1e-5 if replication is None else min(merged, again) > 0.02
PY
