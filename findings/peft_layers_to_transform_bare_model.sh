#!/usr/bin/env bash
# layers_to_transform finds no layer of a model without a head.
#
# Expected: LoraConfig(target_modules=["q_proj"], layers_to_transform=[1]) adapts the second layer of whatever
# transformers loads, with a head (`model.layers.1. ...`) or without one (`layers.1. ...`).
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: the number of a layer is found only where something stands
# before the list of layers, so that the bare model is refused with the advice to check target_modules. With
# layers_pattern="layers" both work.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore - <<'PY'
import peft
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

small = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=32)


def adapted(base, **options):
    config = peft.LoraConfig(target_modules=["q_proj"], layers_to_transform=[1], **options)
    try:
        return peft.get_peft_model(base, config).base_model.targeted_module_names
    except ValueError as error:
        return str(error)


found = {
    "with a head": adapted(LlamaForCausalLM(small)),
    "without": adapted(LlamaModel(small)),
    "without, named": adapted(LlamaModel(small), layers_pattern="layers"),
}
print(peft.__version__, found)
assert found["with a head"] == ["model.layers.1.self_attn.q_proj"]
assert "q_proj" in found["without"] and isinstance(found["without"], str)
assert found["without, named"] == ["layers.1.self_attn.q_proj"]
PY
