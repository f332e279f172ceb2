"""The hidden dense layer of a classification head as a tensor train."""

from typing import Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from ttnet.errors import TTValueError
from ttnet_llm.matrices.config import TrainConfig
from ttnet_llm.tuner import AdapterModel
from ttnet_llm.tuner.model import lies_inside

# RoBERTa's kind of head; the poolers of BERT and DeBERTa; DistilBERT's.
HIDDEN_LAYERS = ("classifier.dense", "pooler.dense", "pre_classifier")


class TrainDense(nn.Module):
    """A linear layer whose weight is a tensor train, in the place of `nn.Linear`.

    Args:
        dense: The layer that it stands for; its bias is taken over, its weight is not.
        config: The method's config.

    Example:
        >>> from ttnet_llm import LorettaRepConfig
        >>> layer = TrainDense(nn.Linear(768, 768), LorettaRepConfig(modes="paper"))
        >>> sum(p.numel() for p in layer.parameters())
        1848
    """

    def __init__(self, dense: nn.Linear, config: TrainConfig) -> None:
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.dense_dtype = dense.weight.dtype
        self.weight_train = config.matrix(dense.in_features, dense.out_features, config.largest_rank)
        self.weight_train.reset_parameters(1 / (3 * dense.in_features))
        self.bias = None if dense.bias is None else nn.Parameter(dense.bias.detach().clone().float())
        if not any(parameter.is_meta for parameter in self.parameters()):  # there they are about to be loaded
            self.to(dense.weight.device)

    def forward(self, x: Tensor) -> Tensor:  # (*batch, in_features) -> (*batch, out_features)
        """Multiply by the factors of the weight, and add the bias."""
        dtype, weights = x.dtype, self.weight_train.chain()
        x = x.to(weights[0].dtype)
        for weight in weights:
            x = x @ weight
        return (x if self.bias is None else x + self.bias).to(dtype)

    def to_dense(self) -> nn.Linear:
        """Give the layer as an `nn.Linear`, of the dtype of the one that it stands for."""
        left, right = self.weight_train.factors()
        dense = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device=left.device)
        with torch.no_grad():
            dense.weight.copy_((left @ right).T)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
        return dense.to(self.dense_dtype)


def hidden_layers(model: nn.Module) -> list[str]:
    """List the full names of a model's hidden dense layers of classification heads.

    Args:
        model: The model.

    Returns:
        The names, in the order of the model.

    Example:
        >>> from transformers import RobertaConfig, RobertaForSequenceClassification
        >>> config = RobertaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
        >>> hidden_layers(RobertaForSequenceClassification(config))
        ['classifier.dense']
    """
    names = []
    for name, module in model.named_modules():
        if ".modules_to_save." in name:  # the copy of an earlier adapter
            continue
        name = ".".join(part for part in name.split(".") if part != "original_module")
        if isinstance(module, nn.Linear) and is_hidden(name):
            names.append(name)
    return names


def is_hidden(name: str) -> bool:
    """Tell by its full name whether a module is a hidden layer of a head."""
    return any(f".{name}".endswith(f".{ending}") for ending in HIDDEN_LAYERS)


def use_trains(model: nn.Module, adapter_name: str, config: TrainConfig) -> None:
    """Put trains in the place of the hidden layers, in the copies that PEFT trains for one adapter.

    Args:
        model: The model, in which the hidden layers or the heads around them have been wrapped by PEFT.
        adapter_name: The adapter.
        config: Its config.
    """
    for name, wrapper in list(model.named_modules()):
        if not isinstance(wrapper, AuxiliaryTrainingWrapper) or adapter_name not in wrapper._adapters:
            continue
        copies = wrapper.modules_to_save
        for inner, module in list(copies[adapter_name].named_modules(prefix=name)):
            if not isinstance(module, nn.Linear) or not is_hidden(inner):
                continue
            train = TrainDense(module, config)
            train.requires_grad_(module.weight.requires_grad)
            parent, _, last = inner.removeprefix(name).removeprefix(".").rpartition(".")
            if last:
                setattr(copies[adapter_name].get_submodule(parent), last, train)
            else:
                copies[adapter_name] = train


def use_dense(model: nn.Module) -> None:
    """Put ordinary layers in the place of all trains of a model from which adapters have been taken out.

    Args:
        model: The model.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, TrainDense):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module.to_dense())


class TTHeadModel(AdapterModel):
    """Base of the tuners whose configs have `tt_head`."""

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter into the model, with trains in the head if the config says so."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        if config.tt_head:
            use_trains(self.model, adapter_name, config)

    def _prepare_adapter_config(self, peft_config: TrainConfig, model_config: dict[str, Any]) -> TrainConfig:
        peft_config = super()._prepare_adapter_config(peft_config, model_config)
        if peft_config.tt_head:
            hidden = hidden_layers(self.model)
            if not hidden:
                raise TTValueError(
                    f"tt_head is True, but {type(self.model).__name__} has no hidden dense layer in its head (none of "
                    f"{', '.join(HIDDEN_LAYERS)}); leave tt_head out."
                )
            kept = list(peft_config.modules_to_save or [])
            # PEFT's own mechanism for whole modules then trains, saves, restores and switches them.
            peft_config.modules_to_save = kept + [name for name in hidden if not lies_inside(name, kept)]
        return peft_config

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        use_dense(model)
        return model
