"""What plain PEFT makes of a LoRA checkpoint, found out on the base model without its weights.

PEFT reads a checkpoint in the light of the model's architecture: for some it renames keys, and takes modules that are
called as experts once were for the parameters that hold the experts now. So what was written is not what is loaded.
"""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from ttnet.nn import TTEmbedding, TTLinear
from ttnet_llm.lora.checkpoint import PREFIX, LoraCheckpoint, as_peft, peft_weights
from ttnet_llm.tuner.names import plain_name

_ADAPTER = "default"
# What PEFT, transformers and accelerate leave on a model that was adapted or spread over devices.
_MARKS = ("peft_config", "active_adapter", "hf_device_map", "_hf_hook", "_hf_peft_config_loaded")
# What PEFT raises where a checkpoint does not fit; it has no exceptions of its own for that.
_REFUSALS = (ValueError, TypeError, KeyError, RuntimeError, AttributeError, NotImplementedError)


def skeleton(model: nn.Module) -> nn.Module:
    """Give a model as it was before it was adapted: the same modules and shapes, without memory for the weights.

    Adapted layers become ordinary ones, also where their weight is a train or quantised, since a LoRA checkpoint is
    for the ordinary model.

    Args:
        model: The base model, with or without adapters in it. It is left as it is.

    Returns:
        A model that PEFT can adapt and load into. It cannot be called.

    Example:
        >>> from ttnet_llm import LotrConfig
        >>> base = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
        >>> _ = get_peft_model(base, LotrConfig(target_modules=["0"]))
        >>> skeleton(base)[0], type(base[0]).__name__
        (Linear(in_features=6, out_features=4, bias=True), 'LotrLinear')
    """
    bare = _bare(model, {})
    if hasattr(bare, "config"):
        bare.config = copy.deepcopy(bare.config)  # PEFT writes to it
    return bare


def adapted_modules(base: nn.Module, config: LoraConfig) -> set[str]:
    """Ask PEFT which modules a config adapts.

    Args:
        base: A skeleton; it is used up.
        config: The config, which is left as it is.

    Returns:
        Their full names; none if PEFT refuses the config.
    """
    try:
        return set(_lora_layers(_adapted(base, config)))
    except _REFUSALS:
        return set()


def loading_faults(base: nn.Module, checkpoint: LoraCheckpoint) -> list[str]:
    """Load a checkpoint with plain PEFT, and compare what each module got with what was meant for it.

    Args:
        base: A skeleton of the model that the checkpoint is for; it is used up.
        checkpoint: What is to be written.

    Returns:
        What is wrong, in words; empty if every update arrives at its module, and nothing anywhere else.

    Example:
        >>> base = nn.Sequential(nn.Linear(6, 4), nn.Linear(6, 4))
        >>> factors = {"1": (torch.ones(6, 2), torch.ones(2, 4))}
        >>> loading_faults(skeleton(base), LoraCheckpoint(LoraConfig(target_modules=["1"]), factors))
        []
        >>> loading_faults(skeleton(base), LoraCheckpoint(LoraConfig(target_modules=["0"]), factors))[:2]
        ["it leaves alone '1'", "it adapts '0'"]
    """
    config, tensors = as_peft(checkpoint)
    for name in checkpoint.factors:
        _put_on_cpu(base, name.rpartition(".")[0] if name in checkpoint.parameters else name)
    try:
        model = _adapted(base, config)
        with _quiet():
            keys = set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=True)
    except _REFUSALS as error:
        return [f"it stops with {str(error)!r}"]
    loaded = _lora_layers(model)
    faults = [
        ("leaves alone", checkpoint.factors.keys() - loaded.keys()),
        ("adapts", loaded.keys() - checkpoint.factors.keys()),
        ("finds no place for", set(keys.unexpected_keys)),
        (
            "computes something else in",
            {n for n, layer in loaded.items() if n in checkpoint.factors and not _holds(layer, checkpoint.factors[n])},
        ),
    ]
    return [f"it {does} {some_of(names)}" for does, names in faults if names]


def some_of(names: Iterable[str], most: int = 3) -> str:
    """Name the first of many names, in their order as text, and say how many more there are.

    Args:
        names: The names.
        most: How many to name.

    Returns:
        The text.

    Example:
        >>> some_of(["b", "a", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _adapted(base: nn.Module, config: LoraConfig) -> nn.Module:
    with _quiet():
        return get_peft_model(
            base,
            copy.deepcopy(config),
            adapter_name=_ADAPTER,
            low_cpu_mem_usage=True,
            autocast_adapter_dtype=False,
        )


def _lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))
    return {
        _adapted_name(name.removeprefix(PREFIX), layer): layer for name, layer in layers if _ADAPTER in layer.scaling
    }


def _adapted_name(name: str, layer: LoraLayer) -> str:
    """What a layer of PEFT's adapts: a module, its weight as a parameter included, or a parameter of another kind."""
    if not isinstance(layer, ParamWrapper):
        return name
    module = plain_name(name)
    return module if isinstance(layer.get_base_layer(), nn.Linear) else f"{module}.{layer.parameter_name}"


def _holds(layer: LoraLayer, factors: tuple[Tensor, Tensor]) -> bool:
    """Tell whether a layer of PEFT's computes with the given factors."""
    if _ADAPTER in layer.lora_embedding_A:
        down, up = layer.lora_embedding_A[_ADAPTER], layer.lora_embedding_B[_ADAPTER]
    else:
        down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
    pairs = zip((down, up), peft_weights(*factors), strict=True)
    return layer.scaling[_ADAPTER] == 1 and all(
        not found.is_meta and torch.equal(found.double(), meant.double().cpu()) for found, meant in pairs
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what PEFT warns of while a checkpoint is only tried out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _bare(module: nn.Module, twins: dict[int, nn.Module]) -> nn.Module:
    """Give a module's twin without adapters and weights, the same one wherever the module is used."""
    if id(module) not in twins:
        if isinstance(module, AuxiliaryTrainingWrapper):
            twin = _bare(module.original_module, twins)
        elif isinstance(module, BaseTunerLayer):
            twin = _bare_layer(module, twins)
        else:
            twin = _twin(module, twins)
        twins[id(module)] = twin
    return twins[id(module)]


def _bare_layer(layer: BaseTunerLayer, twins: dict[int, nn.Module]) -> nn.Module:
    base = layer.get_base_layer()
    if isinstance(base, TTEmbedding):
        return nn.Embedding(base.num_embeddings, base.embedding_dim, device="meta")
    if isinstance(base, TTLinear) or getattr(layer, "quantization_backend", None) is not None:
        has_bias = getattr(base, "bias", None) is not None
        return nn.Linear(layer.in_features, layer.out_features, bias=has_bias, device="meta")
    return _bare(base, twins)


def _twin(module: nn.Module, twins: dict[int, nn.Module]) -> nn.Module:
    twin: nn.Module = object.__new__(type(module))
    nn.Module.__init__(twin)  # no hooks
    own = set(twin.__dict__) | set(_MARKS)
    twin.__dict__.update((key, value) for key, value in module.__dict__.items() if key not in own)
    twin.training, twin._non_persistent_buffers_set = module.training, set(module._non_persistent_buffers_set)
    for name, parameter in module._parameters.items():
        twin._parameters[name] = None if parameter is None else nn.Parameter(_on_meta(parameter), requires_grad=False)
    for name, buffer in module._buffers.items():
        twin._buffers[name] = None if buffer is None else _on_meta(buffer)
    for name, child in module._modules.items():
        twin._modules[name] = None if child is None else _bare(child, twins)
    return twin


def _put_on_cpu(base: nn.Module, name: str) -> None:
    """Give a module weights that are somewhere, since PEFT moves what it loads to where they are.

    One number stands for all of a weight, in the dtype that keeps every digit.
    """
    try:
        module = base.get_submodule(name)
    except AttributeError:  # so that PEFT will not find it either
        return
    zero = torch.zeros((), dtype=torch.float64)
    for part in module.modules():  # a parametrised weight is made of those of parts
        for key, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[key] = nn.Parameter(zero.expand(parameter.shape), requires_grad=False)
        for key, buffer in part._buffers.items():
            part._buffers[key] = None if buffer is None else zero.expand(buffer.shape)


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
