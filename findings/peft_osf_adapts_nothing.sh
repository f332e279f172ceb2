#!/usr/bin/env bash
# OSF on the layers of GPT-2 finds its targets, adapts none of them, and says nothing.
#
# Expected: a method of PEFT that cannot adapt the layers that target_modules names refuses, as other methods do for
# transformers' Conv1D; a model without any trainable parameter is never handed out as adapted.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: OSFConfig(target_modules=["c_attn"]) gives a model whose count
# of trainable parameters is 0 and whose outputs are the base model's; no error, no warning, and the saved adapter has no
# tensors. On linear layers OSF trains; MiSS refuses the same layers by their type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import warnings

import peft
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

shape = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
config = GPT2Config(bos_token_id=1, eos_token_id=2, **shape)
with warnings.catch_warnings():
    warnings.simplefilter("error", UserWarning)
    model = peft.get_peft_model(GPT2LMHeadModel(config), peft.OSFConfig(target_modules=["c_attn"]))
print(peft.__version__, "OSF on Conv1D trains", model.get_nb_trainable_parameters()[0])
print("targets found:", model.base_model.targeted_module_names)
model.save_pretrained("saved")
assert model.get_nb_trainable_parameters()[0] == 0 and len(model.base_model.targeted_module_names) == 2
assert load_file("saved/adapter_model.safetensors") == {}

llama = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4))
linear = peft.get_peft_model(llama, peft.OSFConfig(target_modules=["q_proj"]))
print("OSF on a linear layer trains", linear.get_nb_trainable_parameters()[0])
assert linear.get_nb_trainable_parameters()[0] > 0
try:
    peft.get_peft_model(GPT2LMHeadModel(config), peft.MissConfig(r=4, target_modules=["c_attn"]))
except TypeError as error:
    print("MiSS:", error)
else:
    raise AssertionError("MiSS takes Conv1D now")
PY
