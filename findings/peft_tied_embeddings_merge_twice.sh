#!/usr/bin/env bash
# ensure_weight_tying=True: a LoRA on tied embeddings is merged twice, and is tied for the first adapter alone.
#
# Expected: the option is for a model whose head is its embeddings; the merged embeddings are W + B A, and outputs stay.
# Seen with peft 0.21.2, transformers 5.23.0, torch 2.13.0: head and embeddings have one update while it is an adapter;
# merge_and_unload() adds it to their one weight for each of them, so that it holds W + 2 B A. The warning is the general
# one, that tied targets "can lead to complications". The two updates of a second adapter are independent of each other,
# and its outputs are others once it was saved and loaded.
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
from transformers import LlamaConfig, LlamaForCausalLM

shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 1}
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, **shape)).eval()
x = torch.randint(3, 64, (2, 9))


def config():
    return peft.LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True)


@torch.no_grad()
def randomise(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.normal_(std=0.1)


@torch.no_grad()
def distance(model, other):
    y = other.eval()(x).logits
    return float((model.eval()(x).logits - y).norm() / y.norm())


model = peft.get_peft_model(copy.deepcopy(base), config())
randomise(model)
update = model.base_model.model.model.embed_tokens.get_delta_weight("default").detach()
model.save_pretrained("saved")
merged = peft.PeftModel.from_pretrained(copy.deepcopy(base), "saved").merge_and_unload()
times = float(((merged.model.embed_tokens.weight - base.model.embed_tokens.weight) * update).sum() / update.square().sum())
print(peft.__version__, f"the merged weight holds the update {times:.4f} times")
assert merged.lm_head.weight is merged.model.embed_tokens.weight and abs(times - 2) < 1e-3

model.add_adapter("second", config())
away = {}
for name in ("default", "second"):
    model.set_adapter(name)
    randomise(model)
    model.save_pretrained("saved")
    folder = "saved" if name == "default" else f"saved/{name}"
    away[name] = distance(peft.PeftModel.from_pretrained(copy.deepcopy(base), folder), model)
print("outputs after a round trip are away by", away)
assert away["default"] < 1e-6 and away["second"] > 0.01
PY
