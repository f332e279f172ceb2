"""One adapter of a configuration on a model: the pattern of all adapters of a bank."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.attach import as_peft_model
from ttnet_llm.bank.common import TASK_FIELDS, is_own, one_task, tensors_of_task
from ttnet_llm.bank.forms import Form, form_of
from ttnet_llm.bank.rows import RowLayout
from ttnet_llm.linear import LinearAdapterLayer
from ttnet_llm.linear.sharing import Member, SharedView, head_size, share
from ttnet_llm.lora.checkpoint import PREFIX, read_config, read_weights
from ttnet_llm.loretta_adp import LorettaAdpConfig
from ttnet_llm.tuner import AdapterConfig, AdapterLayer, AdapterModel

_NAME = "pattern"  # of the one adapter
# What may differ between adapters of one bank: how they were started, trained, named and saved.
_OWN = {field.name for field in dataclasses.fields(PeftConfig)} | {
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters"),
    *("modules_to_save", "bias", "init_weights", "train_norms", "dropout", "id2label", "ttnet_version"),
    *("lora_path", "recorded_modes"),
}
_WHERE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


class Pattern:
    """What adapters of one configuration have in common on a model; the model is left as it was.

    Args:
        model: The model.
        config: The configuration.
        common: Where the cores are that adapters share with each other, as `AdapterBank` takes it.

    Raises:
        TTTypeError: If adapters of it cannot be stacked, or have no cores in common.
    """

    def __init__(self, model: nn.Module, config: AdapterConfig, common: Any = False) -> None:
        _refuse(model, config)
        self._has_common = common is not False
        if self._has_common:
            config = one_task(config)
        if found := [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]:
            raise TTTypeError(f"model has an adapter at {found[0]!r} already; give the bare model, or unload it first.")
        self.config = copy.deepcopy(config)
        self.config.task_type = None  # which would bring a head along
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        attached: Any = as_peft_model(model, self.config, _NAME)
        self._tuner: AdapterModel = attached.base_model
        try:
            _refuse(model, self.config)  # with what "all-linear" has made of it
            self.layers: dict[str, AdapterLayer] = dict(_layers(self._tuner))
            if odd := [name for name, layer in self.layers.items() if form_of(layer) is None]:
                raise TTTypeError(
                    f"The config adapts {odd[0]!r}, a {type(self.layers[odd[0]].get_base_layer()).__name__}, whose "
                    "rows have no product of their own; a bank adapts linear layers: leave it out of target_modules."
                )
            shapes = {key: tuple(t.shape) for key, t in self._tensors(self.layers).items()}
            own = {key: shape for key, shape in shapes.items() if not self._has_common or is_own(key, config)}
            self.own_size = RowLayout(own).size  # of what an adapter has alone, in front of what is common
            self.layout = RowLayout(own | shapes)
            self.forms = {name: self._form(name, layer) for name, layer in self.layers.items()}
            networks = [layer.networks[_NAME] for layer in self.layers.values()]
            # An adapter that counts from its start keeps that in buffers, which no training may move.
            self.keeps_start = any(buffer.is_floating_point() for each in networks for buffer in each.buffers())
            self._shares = any(isinstance(network, SharedView) for network in networks)
        except BaseException:
            self.thaw()
            raise
        finally:
            attached.unload()
        self.config.inference_mode = True
        self.config.task_type = config.task_type
        base = config.base_model_name_or_path or getattr(model, "name_or_path", None)
        self.config.base_model_name_or_path = base or None
        self.common: Tensor | None = None
        if self._has_common:
            try:
                self.common = self._read_common(common)
            except BaseException:
                self.thaw()
                raise

    def _read_common(self, source: Any) -> Tensor:  # (size - own_size,)
        adapter = source.active_adapter if isinstance(source, PeftModel) else _NAME
        task = 0 if isinstance(source, Mapping) else None  # whichever: all have the same common cores
        if isinstance(source, Mapping):
            zeros = {key: torch.zeros(self.layout.shapes[key]) for key in self._own_keys()}
            source = {**zeros, **source}
        return self.row_of(None if source is True else source, "common", adapter, task)[self.own_size :]

    def _own_keys(self) -> list[str]:
        return [key for key in self.layout.shapes if is_own(key, self.config)]

    def split_common(
        self,
        common: Tensor,  # (size - own_size,)
    ) -> dict[str, Tensor]:
        """Give the common cores by their keys in a checkpoint.

        Args:
            common: Shape `(size - own_size,)`.

        Returns:
            The tensors, as copies.
        """
        row = torch.cat([common.new_zeros(self.own_size), common.detach()])
        own = set(self._own_keys())
        return {key: t.clone() for key, t in self.layout.split(row).items() if key not in own}

    def arrange(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Take another order of the same tensors.

        Args:
            shapes: Their shapes by their keys, those of the adapters' own first.
        """
        common = None if self.common is None else self.split_common(self.common)
        self.layout = RowLayout(shapes)
        if common is not None:
            zeros = {key: torch.zeros(shapes[key]) for key in self._own_keys()}
            self.common = self.layout.flatten(zeros | common)[self.own_size :]

    def thaw(self) -> None:
        """Let those of the model's parameters learn that did before."""
        for parameter in self._trained:
            parameter.requires_grad_(True)

    def _tensors(self, layers: Mapping[str, AdapterLayer]) -> dict[str, Tensor]:
        """Give one adapter's tensors by the keys that they have in a checkpoint."""
        method = self.config.method
        found: dict[str, Tensor] = {}
        for name, layer in layers.items():
            network = layer.networks[_NAME]
            if whole := [key for key, t in network.named_buffers() if not t.is_floating_point()]:
                raise TTTypeError(
                    f"Adapters of {method} keep {whole[0]!r} besides what they train, which is not the same kind of "
                    "number; a bank cannot stack them."
                )
            found |= {f"{PREFIX}{name}.{method}_network.{key}": t for key, t in network.state_dict().items()}
        return found

    def _form(self, name: str, layer: AdapterLayer) -> Form:
        make, method, network = form_of(layer), self.config.method, layer.networks[_NAME]
        keys = {f"network.{key}": f"{PREFIX}{name}.{method}_network.{key}" for key in network.state_dict()}
        if isinstance(network, SharedView) and not hasattr(network, "common"):
            owner = next(
                other
                for other, each in self.layers.items()
                if getattr(each.networks[_NAME], "common", None) is network.shared
            )
            prefix = f"{PREFIX}{owner}.{method}_network.common."
            keys |= {f"shared.{key}": f"{prefix}{key}" for key in network.shared.state_dict()}
        assert make is not None
        return make(layer, _NAME, keys)

    def draw(self) -> dict[str, Tensor]:
        """Draw a fresh adapter, as PEFT would start one.

        Raises:
            TTTypeError: If it would start from the model's weights, or from a LoRA.
        """
        if isinstance(self.config.init_weights, str):
            raise TTTypeError(
                f"init_weights is {self.config.init_weights!r}, by which an adapter starts from something; a bank "
                "draws no such: make it with PEFT, and add that."
            )
        networks = {name: layer.make_network(self.config.for_module(name)) for name, layer in self.layers.items()}
        views = [network for network in networks.values() if isinstance(network, SharedView)]
        if views:
            members = [
                Member(name, layer.in_features, layer.out_features, cast(LinearAdapterLayer, layer).fan_in, view)
                for (name, layer), view in zip(self.layers.items(), views, strict=True)
            ]
            share(members, self.config, head_size(self._tuner.get_model_config(self._tuner.model)))
        prefix, method = PREFIX, self.config.method
        return {
            f"{prefix}{name}.{method}_network.{key}": t
            for name, network in networks.items()
            for key, t in network.state_dict().items()
        }

    def row_of(self, source: Any, what: str, adapter: str, task: int | None = None) -> Tensor:  # (size,)
        """Read an adapter, wherever it is.

        Args:
            source: As `AdapterBank.add` takes it.
            what: Whose it is, for messages.
            adapter: Its name, in a model that has it.
            task: Which of its tasks, where others have common cores with it; `None` takes its config's.

        Returns:
            Its numbers, in one row.

        Raises:
            TTFileError: If the checkpoint cannot be read.
            TTShapeError: If a tensor has another shape than the bank's.
            TTTypeError: If the source is of another type, or holds what a bank does not keep.
            TTValueError: If the adapter is of another configuration.
        """
        if task is not None and not self._has_common:
            raise TTValueError(f"task is {task!r}; the adapters of a bank without common have all of their tasks.")
        config: Any = None
        if source is None:
            tensors: Mapping[str, Tensor] = self.draw()
        elif isinstance(source, PeftModel):
            tensors = tensors_of(source, adapter)
            config = source.peft_config[adapter]
            self.check_like(config, what)
        elif isinstance(source, Mapping):
            tensors = source
        elif isinstance(source, str | Path):
            what = f"the adapter in {str(source)!r}"
            read_config(source)  # whose errors speak of adapters
            config = PeftConfig.from_pretrained(str(source))
            self.check_like(config, what)
            tensors = read_weights(source)
        else:
            raise TTTypeError(
                f"source is a {type(source).__name__}; expected a folder, tensors by their keys, a PeftModel, or None "
                "for a fresh adapter."
            )
        if self._has_common:
            chosen = getattr(config, "task", None) if task is None else task
            tensors = tensors_of_task(tensors, self._own_keys(), chosen, what)
        return self.layout.flatten(tensors, what)

    def check_like(self, config: PeftConfig, what: str) -> None:
        """Refuse an adapter of another configuration.

        Args:
            config: Its config.
            what: Whose it is, for the message.

        Raises:
            TTValueError: If a field differs that the adapters of a bank have in common.
        """
        own, others = self.config.to_dict(), config.to_dict()
        where = _WHERE if self._shares else ()  # what modules share says nothing of which they are
        free = (_OWN | TASK_FIELDS if self._has_common else _OWN) - set(where)
        for name in ("peft_type", *(each for each in own if each not in free)):
            ours, theirs = _plain(own[name]), _plain(others.get(name))
            if ours != theirs:
                raise TTValueError(
                    f"{name} of {what} is {theirs!r}, and the bank's is {ours!r}; a bank keeps adapters of one "
                    "configuration: make another for this one."
                )
        ours, theirs = self.config.base_model_name_or_path, config.base_model_name_or_path
        if ours and theirs and Path(ours).name.lower() != Path(theirs).name.lower():
            warnings.warn(
                f"{what} was trained on {theirs!r}, and the bank's model is {ours!r}: on another model an adapter of "
                "the same shapes is as good as noise. Check which it is, or take the name off the adapter's config.",
                stacklevel=4,
            )


def tensors_of(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    """Give the tensors of a live model's adapter, as a checkpoint has them.

    Args:
        model: The model.
        adapter: The adapter's name.

    Returns:
        The tensors by their keys.

    Raises:
        TTValueError: If there is no such adapter.
    """
    if adapter not in model.peft_config:
        raise TTValueError(f"adapter is {adapter!r}; the model has {', '.join(model.peft_config)}.")
    tensors: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    return tensors


def _layers(tuner: AdapterModel) -> Any:
    from ttnet_llm.linear.layer import layers_with

    if hasattr(tuner, "layers_with"):
        return layers_with(tuner.model, _NAME)
    return ((name, layer) for name, layer in tuner.adapter_layers().items() if _NAME in layer.networks)


def _refuse(model: nn.Module, config: AdapterConfig) -> None:
    if not isinstance(config, AdapterConfig):
        raise TTTypeError(
            f"config is a {type(config).__name__}; expected one of ttnet_llm's, such as LorettaRepConfig. MELoRA with "
            "n=1 is LoRA."
        )
    if isinstance(model, PeftModel):
        raise TTTypeError("model is a PeftModel; give the bare model, and add its adapters to the bank.")
    for name, usual in (("modules_to_save", None), ("bias", "none"), ("train_norms", False), ("tt_head", False)):
        value = getattr(config, name, usual)
        if value != usual and value != [] and value is not None:
            raise TTTypeError(
                f"{name} is {value!r}; a bank keeps what goes around the layers of a model, and no heads, norms or "
                "biases of their own: leave it out."
            )
    if isinstance(config, LorettaAdpConfig) and any(True for _ in ACT2FN[config.non_linearity].parameters()):
        raise TTTypeError(
            f"non_linearity is {config.non_linearity!r}, which learns; a bank's adapters have one in common: choose "
            "another, such as 'relu'."
        )
    if config.target_parameters:
        raise TTTypeError(
            f"target_parameters is {config.target_parameters!r}; a bank adapts linear layers, not bare parameters: "
            "leave it out."
        )


def _plain(value: Any) -> Any:
    """Give a value as JSON would have it, whether it went through a file or not."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, set):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return getattr(value, "value", value)
