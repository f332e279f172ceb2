#!/usr/bin/env bash
# A LoRA that names DeepSeek-V3's shared experts is put on the routed ones, without a word.
#
# Expected: target_modules=["shared_experts.down_proj"] adapts the linear layer of that name.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: the ending `down_proj` is turned into a target parameter of
# the fused experts of the layer, whatever stands before it; the shared experts, which are ordinary linear layers, stay
# as they are. A checkpoint of a LoRA on them that was made otherwise is read in the same way.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import peft
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

config = DeepseekV3Config(
    hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, vocab_size=64, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
    kv_lora_rank=8, q_lora_rank=12, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, first_k_dense_replace=1,
    n_shared_experts=1,
)
base = DeepseekV3ForCausalLM(config)
named = [name for name, _ in base.named_modules() if name.endswith("shared_experts.down_proj")]
model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["shared_experts.down_proj"]))
adapted = sorted({name.partition(".lora_")[0] for name, p in model.named_parameters() if "lora_" in name})
print(peft.__version__, "named:", named, "adapted:", adapted)
assert named == ["model.layers.1.mlp.shared_experts.down_proj"]
assert adapted == ["base_model.model.model.layers.1.mlp.experts"]
PY
