#!/usr/bin/env bash
# An adapter that PEFT loaded for inference, frozen, is trainable after one `with model.disable_adapter()`.
#
# Expected: what was frozen before the block is frozen after it.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: enabling the adapters again sets requires_grad on all
# weights of the active adapter, and on copies of modules that are trained whole.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import peft
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64)
lora = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
peft.get_peft_model(LlamaForCausalLM(config), lora).save_pretrained("adapter")
model = peft.PeftModel.from_pretrained(LlamaForCausalLM(config), "adapter")


def trainable():
    return sorted(name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad)


print(peft.__version__, "after loading:", trainable())
assert trainable() == []
with model.disable_adapter():
    pass
print("after disable_adapter():", trainable())
assert trainable() == ["lora_A", "lora_B", "modules_to_save"]
PY
