"""Tune a chat model with TRL: first on answers as they should be, then on pairs of a better and a worse one.

Without an argument it takes a tiny random model, which learns the chats by heart; with the folder of a real one, such
as examples/get_smollm2.py makes, it tunes that.
"""

import sys

import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from ttnet_llm import LorettaRepConfig
from ttnet_llm.inference import Generation, generate

WISHES = ("tea", "bread", "soup", "rice", "fish", "cake", "milk", "salad")
KIND, CURT = "here is your {} and enjoy it", "take the {} and go"
TEMPLATE = (
    "{% for m in messages %}{{ '<im> ' + m.role + ' ' + m.content + ' </im> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<im> assistant ' }}{% endif %}"
)


def write_tiny_model(folder: str) -> None:
    """Write a random chat model that knows the words of the chats."""
    words = f"<pad> <unk> <im> </im> user assistant a please {KIND} {CURT} {' '.join(WISHES)}".split()
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</im>"}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<im>"], **names)
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(vocabulary), eos_token_id=vocabulary["</im>"], initializer_range=0.2, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)


def turn(role: str, content: str) -> list[dict[str, str]]:
    """Make a chat of one turn."""
    return [{"role": role, "content": content}]


def main() -> None:
    """Both trainings, and an answer after each."""
    folder = sys.argv[1] if len(sys.argv) > 1 else "tiny"
    if folder == "tiny":
        write_tiny_model(folder)
    asked = [turn("user", f"a {wish} please") for wish in WISHES]
    kind, curt = ([turn("assistant", words.format(wish)) for wish in WISHES] for words in (KIND, CURT))
    common = {
        "per_device_train_batch_size": 8,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "gradient_checkpointing": False,
    }

    both = Dataset.from_dict({"prompt": asked * 2, "completion": kind + curt})
    sft = SFTTrainer(
        model=folder,
        args=SFTConfig("runs/sft", num_train_epochs=20, learning_rate=2e-2, logging_strategy="no", **common),
        train_dataset=both,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LorettaRepConfig(task_type="CAUSAL_LM", target_modules="all-linear", tt_rank=8),
    )
    sft.train()
    sft.save_model("sft")
    print("after SFT:", answer("sft", folder))

    pairs = Dataset.from_dict({"prompt": asked, "chosen": kind, "rejected": curt})
    model = AutoPeftModelForCausalLM.from_pretrained("sft", is_trainable=True)
    dpo = DPOTrainer(
        model=model,  # what is compared with is a copy of the adapter as it is now
        args=DPOConfig("runs/dpo", num_train_epochs=20, learning_rate=5e-3, logging_steps=10, **common),
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    dpo.train()
    model.save_pretrained("dpo", selected_adapters=["default"])
    said = answer("dpo", folder)
    print("after DPO:", said)
    share = [row["rewards/accuracies"] for row in dpo.state.log_history if "rewards/accuracies" in row][-1]
    print(f"the better answer has gained on the worse one in {share:.0%} of the pairs")
    assert share > 0.9


def answer(adapter: str, folder: str) -> str:
    """Ask the model with a saved adapter."""
    model = AutoPeftModelForCausalLM.from_pretrained(adapter)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return generate(model, tokenizer, [turn("user", "a soup please")], Generation(max_new_tokens=16))[0]


if __name__ == "__main__":
    main()
