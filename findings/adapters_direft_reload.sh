#!/usr/bin/env bash
# A DiReFT of the adapters library is another adapter once it was saved and loaded.
#
# Expected: load_adapter() of what save_adapter() wrote gives the outputs that were saved, as it does for LoReFT and NoReFT.
# Seen with adapters 1.3.0, transformers 4.57.6, torch 2.13.0: a DiReFT does not subtract the projection of the states, and
# the file does not say so: the setting has no type annotation in its config, and so is no field of it. Loaded, it
# subtracts, and outputs are others, even if the config is named again; all weights are the saved ones. No word is said.
# Setting subtract_projection = False on the loaded modules brings the outputs back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 adapters==1.3.0 transformers==4.57.6
cd "$folder"
HF_HUB_OFFLINE=1 HF_HOME="$folder" OMP_NUM_THREADS=1 "$folder/env/bin/python" - 2> errors <<'PY'
import copy
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import adapters
import torch
from transformers import BertConfig, BertModel

shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
torch.manual_seed(0)
base, x = BertModel(BertConfig(**shape)).eval(), torch.randint(3, 64, (2, 9))


def fresh():
    model = copy.deepcopy(base)
    adapters.init(model)
    return model


@torch.no_grad()
def outputs(model):
    return model.eval()(x).last_hidden_state


def distance(y, reference):
    return float((y - reference).norm() / reference.norm())


warnings.simplefilter("error", UserWarning)
for name in ("loreft", "noreft", "direft"):
    model = fresh()
    model.add_adapter("one", config=name)
    model.train_adapter("one")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad and "parametrizations" not in key:  # which keep signs beside the numbers
                parameter += 0.3 * torch.randn_like(parameter)
    saved = outputs(model)
    model.save_adapter(name, "one")
    loaded, named = fresh(), fresh()
    loaded.load_adapter(name, set_active=True)
    named.load_adapter(name, config=name, set_active=True)
    with torch.no_grad():
        errors = [distance(outputs(m), saved) for m in (loaded, named)]
        for module in loaded.modules():
            if name == "direft" and hasattr(module, "subtract_projection"):
                module.subtract_projection = False
        mended = distance(outputs(loaded), saved)
    told = "subtract_projection" in json.loads(Path(name, "adapter_config.json").read_text())["config"]
    changes = distance(saved, outputs(base))
    print(version("adapters"), name, f"changes {changes:.2f}, loaded {errors[0]:.1e}, named {errors[1]:.1e},", end=" ")
    print(f"mended {mended:.1e}, the file tells of the projection: {told}")
    assert changes > 0.01 and mended < 1e-5
    assert all((error > 0.03) is (name == "direft") for error in errors)
    assert not told
PY
! grep -i "projection" errors
