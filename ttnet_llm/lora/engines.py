"""What serving engines make of that in a checkpoint which is no LoRA of modules: norms, biases, heads, experts."""

from collections.abc import Iterable

from torch import nn

from ttnet_llm.lora.checkpoint import PREFIX
from ttnet_llm.lora.verify import some_of
from ttnet_llm.tuner.model import is_norm

# By their sources; docs/export.md names them. llama.cpp was run.
_ENGINES = {
    "norms": "vLLM refuses, SGLang refuses or leaves out, and llama.cpp and TGI leave out without a word",
    "biases": "vLLM, SGLang and llama.cpp refuse, and TGI leaves out without a word",
    "modules trained whole": "vLLM and llama.cpp refuse, and SGLang and TGI leave out without a word",
    "experts or other parameters": "vLLM and SGLang leave out without a word, mistake or refuse, by version and model",
}


def beyond_lora(base: nn.Module, keys: Iterable[str], parameters: Iterable[str] = ()) -> str:
    """Say which parts of a checkpoint are no LoRA, and which engines do without them.

    Args:
        base: The model without adapters; its weights are not looked at.
        keys: The keys of tensors that are no LoRA.
        parameters: Full names of parameters, as those of experts, that are adapted by themselves.

    Returns:
        A sentence or two; the empty string if there are no such parts.

    Example:
        >>> base = nn.ModuleDict({"norm": nn.LayerNorm(4), "score": nn.Linear(4, 2)})
        >>> print(beyond_lora(base, ["base_model.model.score.weight", "base_model.model.norm.weight"]))
        The export holds more than LoRA: norms ('norm'), which vLLM refuses, ...; modules trained whole ('score'), ...
    """
    keys, modules = set(keys), dict(base.named_modules())
    found: dict[str, set[str]] = {kind: set() for kind in _ENGINES}
    for key in keys:
        name, _, leaf = key.removeprefix(PREFIX).replace(".base_layer.", ".").rpartition(".")
        if leaf == "bias" and key.removesuffix("bias") + "weight" not in keys:
            kind = "biases"
        else:
            kind = "norms" if name in modules and is_norm(modules[name]) else "modules trained whole"
        found[kind].add(name)
    found["experts or other parameters"].update(parameters)
    parts = [f"{kind} ({some_of(names, most=1)}), which {_ENGINES[kind]}" for kind, names in found.items() if names]
    if not parts:
        return ""
    return (
        f"The export holds more than LoRA: {'; '.join(parts)}. PEFT and transformers load all of it; for other engines "
        "merge the adapter (`ttnet-llm merge`), or train it without train_norms, modules_to_save, bias "
        "and target_parameters."
    )
