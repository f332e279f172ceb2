#!/usr/bin/env bash
# PEFT warns that a rank_pattern key "did not match any targeted module and was ignored", and the rank is what it says.
#
# Expected: an entry of rank_pattern that PEFT calls ignored leaves its parameter with the rank r.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: for target_parameters, such as the experts' weights of a
# mixture of experts, the entry is named in that warning and applied.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PY'
import warnings

import peft
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

sizes = {"hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 8, "head_dim": 8, "vocab_size": 32}
heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}
model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **heads, num_experts=4, num_experts_per_tok=2))
parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    lora = peft.LoraConfig(
        r=2, target_modules=[], target_parameters=parameters, rank_pattern={"experts.down_proj": 4}
    )
    model = peft.get_peft_model(model, lora)
said = [str(warning.message) for warning in caught if "rank_pattern" in str(warning.message)]
ranks = sorted(p.shape[0] // 4 for name, p in model.named_parameters() if "lora_A" in name)
print(peft.__version__, "warned:", said, "ranks:", ranks)
assert len(said) == 1
assert "were ignored: ['experts.down_proj']" in said[0]
assert ranks == [2, 4]
PY
