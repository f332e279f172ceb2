"""What a LoRA checkpoint says and holds besides the updates: its config, its targets, what was trained whole."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from peft import LoraConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ttnet_llm.linear import LinearAdapterLayer, ParameterLayer
from ttnet_llm.lora.checkpoint import PREFIX
from ttnet_llm.lora.verify import adapted_modules, skeleton
from ttnet_llm.tt_head import TrainDense
from ttnet_llm.tuner import AdapterConfig
from ttnet_llm.tuner.names import base_modules, place_in_layer, plain_name

Layers = Mapping[str, LinearAdapterLayer]  # the adapted layers by their full names in the base model


def base_model(model: nn.Module) -> nn.Module:
    """Give the model inside a `PeftModel`, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def lora_config(model: nn.Module, config: AdapterConfig, layers: Layers, targets: dict[str, Any]) -> LoraConfig:
    """Say in LoRA's terms what an adapter's config says, but for the ranks.

    Args:
        model: A `PeftModel`, or a transformers model with an adapter from `add_adapter`.
        config: The adapter's config.
        layers: Its layers.
        targets: The fields that name the targets.

    Returns:
        The config, which is the same function whichever way the targets are named.
    """
    base = base_model(model)
    auto_mapping = config.auto_mapping
    if config.task_type is None and auto_mapping is None:
        # As `save_pretrained` has it, so that PEFT's auto classes find the model's class.
        auto_mapping = {"base_model_class": type(base).__name__, "parent_library": type(base).__module__}
    return LoraConfig(
        task_type=config.task_type,
        auto_mapping=auto_mapping,
        base_model_name_or_path=config.base_model_name_or_path or getattr(base, "name_or_path", None) or None,
        revision=config.revision,
        inference_mode=True,
        lora_dropout=0.0 if "target_parameters" in targets else config.dropout,  # PEFT has none for parameters
        bias="lora_only" if config.bias.endswith("_only") else config.bias,
        fan_in_fan_out=any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
        modules_to_save=config.modules_to_save,
        **targets,
    )


def find_targets(model: nn.Module, config: AdapterConfig, layers: Layers) -> dict[str, Any]:
    """Find a way to name the adapted modules by which PEFT adapts just them, the one that most engines understand.

    Args:
        model: A `PeftModel`, or a transformers model with an adapter from `add_adapter`.
        config: The adapter's config.
        layers: Its layers.

    Returns:
        Fields of a `LoraConfig`: the modules' last names, where these name just them; or else their full names; and
        where PEFT takes some of the names for experts', the weights of these modules as parameters. The full names,
        if there is no way.
    """
    base = base_model(model)
    parameters = [name for name, layer in layers.items() if isinstance(layer, ParameterLayer)]
    modules = [name for name in layers if name not in parameters]
    targeted = {"target_parameters": _shortest(parameters, base)} if parameters else {}

    def adapted(targets: dict[str, Any]) -> set[str]:
        return adapted_modules(skeleton(base), lora_config(model, config, layers, targets))

    ends = sorted({_last(name) for name in modules})
    longer = [
        n for n, _ in skeleton(base).named_modules() if n not in layers and any(e in modules for e in _endings(n))
    ]
    full = {"target_modules": sorted(modules)} | ({"exclude_modules": longer} if longer else {}) | targeted
    for targets in ({"target_modules": ends} | targeted, full):
        if adapted(targets) == set(layers):
            return targets
    alike = [[name for name in modules if _last(name) == end] for end in ends]
    missed = {name for names in alike if adapted({"target_modules": names}) != set(names) for name in names}
    targets = {
        "target_modules": sorted(set(modules) - missed),
        "target_parameters": [*targeted.get("target_parameters", ()), *(f"{name}.weight" for name in sorted(missed))],
    }
    return targets if adapted(targets) == set(layers) else full


def _shortest(parameters: list[str], base: nn.Module) -> list[str]:
    """Name parameters by their places in a layer, where these name just them."""
    places = sorted(set(map(place_in_layer, parameters)))
    named = [
        f"{name}.{own}"
        for name, module in base_modules(base)
        for own, _ in module.named_parameters(recurse=False)
        if f".{name}.{own}".endswith(tuple(f".{place}" for place in places))
    ]
    return places if set(named) == set(parameters) else sorted(parameters)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _endings(name: str) -> Iterator[str]:
    """List the shorter names that PEFT takes for this one too."""
    while "." in name:
        name = name.partition(".")[2]
        yield name


def trained_whole(
    model: nn.Module, adapter_name: str, layers: Layers, save_embedding_layers: bool | Literal["auto"]
) -> dict[str, Tensor]:
    """Collect what else belongs to an adapter: heads, norms, biases, embeddings.

    Args:
        model: A `PeftModel`, or a transformers model with an adapter from `add_adapter`.
        adapter_name: The adapter.
        layers: Its layers.
        save_embedding_layers: As `export_lora` takes it.

    Returns:
        The tensors under the keys that PEFT saves them by, trains in a head as ordinary layers.
    """
    if save_embedding_layers == "auto" and any(layer.is_embedding for layer in layers.values()):
        save_embedding_layers = False  # PEFT would take every adapted embedding for a resized one
    tensors = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=save_embedding_layers)
    networks = tuple(f"{name}.{layer.method}_network." for name, layer in layers.items())
    others = {
        key: tensor for key, tensor in tensors.items() if not plain_name(key).removeprefix(PREFIX).startswith(networks)
    }
    for name, wrapper in model.named_modules():
        if isinstance(wrapper, AuxiliaryTrainingWrapper) and adapter_name in wrapper._adapters:
            for inner, module in wrapper.modules_to_save[adapter_name].named_modules():
                if isinstance(module, TrainDense):
                    prefix = f"{name}.{inner}." if inner else f"{name}."
                    others = {key: tensor for key, tensor in others.items() if not key.startswith(prefix)}
                    others |= {prefix + key: tensor for key, tensor in module.to_dense().state_dict().items()}
    # With bias="all", PEFT also takes the biases of these modules by the names that they have inside its wrappers.
    inside = {"modules_to_save", "original_module"}
    return {
        PREFIX + key.removeprefix(PREFIX): tensor for key, tensor in others.items() if inside.isdisjoint(key.split("."))
    }
