#!/usr/bin/env bash
# LyCORIS merges a LoHa or a LoKr at alpha / rank of the strength that it has before it is merged.
#
# Expected: merge_to() gives the weights that answer as the network did after apply_to(), as it does for LoCon.
# Seen with lycoris-lora 4.1.3, torch 2.13.0: the scale of alpha / rank is applied once while a LoHa or LoKr is active, and
# twice in what is merged: of rank 8 and alpha 4 the merged change is half of the one that was trained, of alpha 1, the
# default, an eighth. The same where the network was read from what state_dict() gave. At an alpha that is the rank, and
# for a LoKr that is large enough to be kept as whole matrices, which has no scale, nothing shows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 numpy==2.4.6 lycoris-lora==4.1.3
cd "$folder"
OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore - 2>/dev/null <<'PY'
import copy
import logging
from importlib.metadata import version

import torch
from lycoris import create_lycoris, create_lycoris_from_weights
from torch import nn

logging.disable(logging.WARNING)
torch.manual_seed(0)
base, x = nn.Sequential(nn.Linear(128, 128)).eval(), torch.randn(64, 128)


@torch.no_grad()
def change(model):
    return model(x) - base(x)


for algo in ("locon", "lokr", "loha"):
    for alpha in (8, 4, 1):
        model = copy.deepcopy(base)
        options = {"algo": algo, "linear_dim": 8, "linear_alpha": alpha, "factor": 4}
        network = create_lycoris(model, 1.0, **options)
        network.apply_to()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        active = change(model)
        saved = {name: value.detach().clone() for name, value in network.state_dict().items()}
        network.restore()
        assert not change(model).any()
        network.merge_to(1.0)

        other = copy.deepcopy(base)
        loaded, _ = create_lycoris_from_weights(1.0, "", other, weights_sd=saved)
        loaded.apply_to()
        assert torch.allclose(change(other), active, atol=1e-4)
        loaded.restore()
        loaded.merge_to(1.0)

        ratios = [float(change(m).norm() / active.norm()) for m in (model, other)]
        print(version("lycoris-lora"), algo, f"alpha {alpha}: merged over active", [round(r, 4) for r in ratios])
        seen = 1.0 if algo == "locon" else alpha / 8
        assert all(abs(ratio - seen) < 1e-3 for ratio in ratios)
PY
