"""Answer with an exported adapter in a process that knows PEFT and transformers alone.

Run as `python -m demo.chat.plain LORA MODEL TOKENS QUESTION...`; the answers are printed as JSON.
"""

from __future__ import annotations

import json
import sys

import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer


def main(lora: str, base: str, tokens: str, *questions: str) -> None:
    """Print the answers to questions."""
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = AutoPeftModelForCausalLM.from_pretrained(lora).eval()
    chats = [[{"role": "user", "content": question}] for question in questions]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    options = {"max_new_tokens": int(tokens), "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    with torch.inference_mode():
        written = model.generate(**batch, **options)
    begin = batch["input_ids"].shape[1]
    assert "ttnet_llm" not in sys.modules
    print(json.dumps([text.strip() for text in tokenizer.batch_decode(written[:, begin:], skip_special_tokens=True)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
