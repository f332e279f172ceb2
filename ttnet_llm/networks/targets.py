"""The modules that linear methods adapt where the user names none."""

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

Targets = dict[str, list[str] | str]

# Query and value projections, as LoRA has them.
QUERY_VALUE: Targets = {
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "camembert": ["query", "value"],
    "albert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "vit": ["q_proj", "v_proj"],
}

_FOUR: dict[tuple[str, ...], str] = {
    ("query", "key", "value", "attention.output.dense"): "bert roberta xlm-roberta electra camembert layoutlm",
    ("query_proj", "key_proj", "value_proj", "attention.output.dense"): "deberta-v2",
    ("q_lin", "k_lin", "v_lin", "out_lin"): "distilbert",
    ("query", "key", "value", "attention.dense"): "albert",
    ("q_proj", "k_proj", "v_proj", "o_proj"): (
        "llama llama4 mistral mixtral gemma gemma2 gemma3_text qwen2 qwen3 stablelm vit"
    ),
    ("q_proj", "k_proj", "v_proj", "out_proj"): "opt bart gptj gpt_neo",
    ("q", "k", "v", "o"): "t5 mt5",
}

# All four projections of attention; those of LoRA where an architecture does not hold them apart.
ATTENTION: Targets = {
    **QUERY_VALUE,
    **{name: list(targets) for targets, names in _FOUR.items() for name in names.split()},
}
