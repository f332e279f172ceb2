"""Adapt a vision transformer to tell apart pictures of stripes."""

import torch
from peft import PeftModel, get_peft_model
from transformers import ViTConfig, ViTForImageClassification

from ttnet_llm import LorettaRepConfig


def stripes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noisy pictures of stripes, which lie (0) or stand (1); shapes `(count, 3, 32, 32)` and `(count,)`."""
    labels = torch.randint(2, (count,))
    wave = torch.sin(torch.arange(32) * 0.8 + 6.3 * torch.rand(count, 1))  # (count, 32)
    lying = wave[:, None, :, None].expand(count, 3, 32, 32)
    pictures = torch.where(labels[:, None, None, None] == 1, lying.mT, lying)
    return pictures + 0.5 * torch.randn(count, 3, 32, 32), labels


def main() -> None:
    """Train the adapter and a head on a frozen body, save and load them."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8
    )
    body = ViTForImageClassification(config)  # or from_pretrained("google/vit-base-patch16-224")
    weights = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    adapter = LorettaRepConfig(target_modules="all-linear", tt_rank=8, modules_to_save=["classifier"], train_norms=True)
    model = get_peft_model(body, adapter)
    model.print_trainable_parameters()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    for _ in range(150):
        pictures, labels = stripes(32)
        optimizer.zero_grad()
        model(pixel_values=pictures, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained("stripes")

    fresh = ViTForImageClassification(config)
    fresh.load_state_dict(weights)
    again = PeftModel.from_pretrained(fresh, "stripes").eval()
    pictures, labels = stripes(200)
    with torch.no_grad():
        right = float((again(pixel_values=pictures).logits.argmax(1) == labels).double().mean())
    print(f"right: {right:.0%}")
    assert right > 0.8


if __name__ == "__main__":
    main()
