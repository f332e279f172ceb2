"""Which linear layers are adapted where the user names none, or all of them."""

import copy
import re

from peft import PeftConfig
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from torch import nn
from transformers.pytorch_utils import Conv1D

from ttnet_llm.tuner.base_weights import quantization_backend
from ttnet_llm.tuner.bypassed import goes_around

# What architectures call their layers. An entry with a dot is a name and the end of its module's.
INPUTS = (
    *("q_proj", "v_proj", "query", "value", "q", "v", "q_lin", "v_lin", "query_proj", "value_proj"),
    *("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv", "in_proj_qkvz"),  # fused
    *("q_b_proj", "kv_b_proj"),  # out of a latent space
)
ATTENTION = (
    *INPUTS,
    *("k_proj", "key", "k", "k_lin", "key_proj"),
    *("o_proj", "o", "out_lin", "attention.output.dense", "attention.dense", "attn.Wo", "attn.c_proj"),
    *("self_attn.out_proj", "attn.out_proj", "attention.out_proj", "linear_attn.out_proj"),
)
FEED_FORWARD = (
    *("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "fc_in", "fc_out", "c_fc", "mlp.c_proj"),
    *("dense_h_to_4h", "dense_4h_to_h", "wi", "wi_0", "wi_1", "wo", "Wo", "lin1", "lin2", "output.dense", "ffn_output"),
)
# What reads the residual stream: the first layers of attention and of the feed-forward block.
READERS = (
    *INPUTS,
    *("k_proj", "key", "k", "k_lin", "key_proj"),
    *("q_a_proj", "kv_a_proj_with_mqa", "in_proj_ba"),
    *("gate_proj", "up_proj", "gate_up_proj", "fc1", "fc_in", "c_fc", "dense_h_to_4h", "wi", "wi_0", "wi_1", "Wi"),
    *("lin1", "intermediate.dense", "ffn"),
)
# What writes to it at the end of a feed-forward block, where the neurons are read.
FEED_FORWARD_OUTPUTS = (
    *("down_proj", "fc2", "fc_out", "mlp.c_proj", "dense_4h_to_h", "wo", "mlp.Wo", "lin2", "feed_forward.w2"),
    *("output.dense", "ffn_output"),
)
OUTPUTS = ("o_proj", "out_proj", "out_lin", "dense")
STATE_SPACE = ("in_proj",)  # the one projection of a mixer that its fused kernels do not go around

LAYER_NAMES = (*ATTENTION, *FEED_FORWARD)
ROUTERS = ("router", "gate", "shared_expert_gate")
# What PEFT trains whole for a task, which it says in the config only once adapters are in place.
HEADS = {"TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}


def default_targets(model: nn.Module, *choices: tuple[str, ...]) -> list[str]:
    """Find the layers that a method adapts by default, by the names that architectures give them.

    Only layers inside of numbered blocks count: heads and embeddings are no part of them.

    Args:
        model: The model.
        *choices: Names; the first choice of which the model has some is taken.

    Returns:
        Those of the names that the model has, with the end of the module's name before them where layers outside of
        the blocks, or others that a longer name tells apart, are called the same; empty where it has none.

    Example:
        >>> blocks = nn.ModuleList(nn.ModuleDict({"q_proj": nn.Linear(2, 2), "mlp": nn.Linear(2, 2)}) for _ in range(2))
        >>> default_targets(nn.ModuleDict({"blocks": blocks, "q_proj": nn.Linear(2, 2)}), INPUTS)
        ['0.q_proj', '1.q_proj']
    """
    names = [name.removesuffix(".base_layer") for name, module in model.named_modules() if is_linear(module)]
    inside = [name for name in names if re.search(r"\.\d+\.", f".{name}")]
    outside = [name for name in names if name not in set(inside)]
    for choice in choices:
        found: dict[str, None] = {}
        for entry in choice:
            # Of "output.dense", "attention.output.dense" is another layer, where that is not among the names.
            longer = [known for known in LAYER_NAMES if "." in entry and known.endswith(f".{entry}")]
            others = [known for known in longer if known not in choice]
            ending = [name for name in inside if f".{name}".endswith(f".{entry}")]
            matching = [name for name in ending if not any(f".{name}".endswith(f".{other}") for other in others)]
            if len(matching) < len(ending) or any(f".{name}".endswith(f".{entry}") for name in outside):
                parts = entry.count(".") + 2
                found |= dict.fromkeys(".".join(name.split(".")[-parts:]) for name in matching)
            elif matching:
                found[entry] = None
        if found:
            return list(found)
    return []


def all_linear(model: nn.Module, config: PeftConfig) -> set[str]:
    """List what "all-linear" stands for: every linear layer but heads, routers and what the model goes around.

    Args:
        model: The model.
        config: A config whose `target_modules` is "all-linear".

    Returns:
        Full names. Heads are the output embedding and what `modules_to_save` or the task trains whole; routers choose
        experts, and a small change of theirs changes the model by leaps. An adapter on a layer whose weight the model
        reads itself would have no effect.

    Example:
        >>> from ttnet_llm import TTLoraConfig
        >>> model = nn.ModuleDict({"up": nn.Linear(2, 2), "router": nn.Linear(2, 4), "pre_classifier": nn.Linear(2, 2)})
        >>> all_linear(model, TTLoraConfig(target_modules="all-linear", modules_to_save=["classifier"]))
        {'up'}
    """
    names: set[str] = _maybe_include_all_linear_layers(copy.copy(config), model).target_modules
    whole = (*(getattr(config, "modules_to_save", None) or ()), *HEADS.get(config.task_type, ()))
    # As PEFT finds what it trains whole: by the ending of the name, whatever comes before it.
    heads = [name for name, _ in model.named_modules() if name.endswith(whole)] if whole else []
    return {
        name
        for name in names
        if name.rpartition(".")[2] not in ROUTERS
        and not any(f"{name}.".startswith(f"{head}.") for head in heads)
        and not goes_around(model, name)
    }


def is_linear(module: nn.Module, types: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D)) -> bool:
    """Tell whether a module is a linear layer, quantised ones included.

    Args:
        module: The module.
        types: What counts besides quantised layers.

    Returns:
        Whether it is.

    Example:
        >>> is_linear(nn.Linear(2, 2)), is_linear(nn.LayerNorm(2))
        (True, False)
    """
    if isinstance(module, types):
        return True
    backend = quantization_backend(module)
    return backend is not None and backend.layer_type == "linear"
