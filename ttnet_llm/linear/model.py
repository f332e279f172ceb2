"""The tuner of every linear method: shares networks between modules, and starts adapters where they are told to."""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from torch import nn

from ttnet_llm.linear.layer import LinearAdapterLayer
from ttnet_llm.linear.network import FactorNetwork, SharedView
from ttnet_llm.lora import lora_factors
from ttnet_llm.thin import leading_factors
from ttnet_llm.tuner import AdapterConfig, AdapterModel


class LinearModel(AdapterModel):
    """Base of the linear methods' tuners."""

    tuner_layer_cls: type[LinearAdapterLayer]

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        **kwargs: Any,
    ) -> None:
        """Put an adapter into the model, connect the networks that modules share, and set their start."""
        super().inject_adapter(
            model,
            adapter_name,
            autocast_adapter_dtype=autocast_adapter_dtype,
            low_cpu_mem_usage=low_cpu_mem_usage,
            **kwargs,
        )
        config = self.peft_config[adapter_name]
        if issubclass(self.tuner_layer_cls.network_cls, SharedView):
            with init_empty_weights() if low_cpu_mem_usage else nullcontext():
                self._share(adapter_name, config)
        if config.init_weights == "tt_svd":
            self._start_from_weights(adapter_name)
        elif config.init_weights == "lora":
            self._start_from_lora(adapter_name, config)

    def layers_with(self, adapter_name: str) -> Iterator[tuple[str, LinearAdapterLayer]]:
        """List the layers that have an adapter, with the full names of their modules.

        Args:
            adapter_name: Name of the adapter.

        Yields:
            Names, as the base model has them, and layers.
        """
        for name, module in self.model.named_modules():
            if isinstance(module, self.tuner_layer_cls) and adapter_name in module.networks:
                yield name, module

    def _share(self, adapter_name: str, config: AdapterConfig) -> None:
        groups: dict[tuple[int, int, int], list[tuple[str, LinearAdapterLayer]]] = {}
        for name, layer in self.layers_with(adapter_name):
            groups.setdefault((layer.in_features, layer.out_features, layer.fan_in), []).append((name, layer))
        head_size = _head_size(self.get_model_config(self.model))
        for (in_features, out_features, fan_in), members in groups.items():
            places = [_place(name) for name, _ in members]
            layers, projections = (list(dict.fromkeys(names)) for names in zip(*places, strict=True))
            view_cls = cast(type[SharedView], self.tuner_layer_cls.network_cls)
            shared = view_cls.make_shared(
                in_features,
                out_features,
                fan_in,
                len(layers),
                len(projections),
                head_size if head_size and out_features % head_size == 0 else out_features,
                config,
            )
            for k, ((_, member), place) in enumerate(zip(members, places, strict=True)):
                view = cast(SharedView, member.networks[adapter_name])
                view.connect(shared, layers.index(place[0]), projections.index(place[1]), owner=k == 0)
            owner = members[0][1]
            owner._move_adapter_to_device_of_base_layer(adapter_name)
            shared.requires_grad_(adapter_name in owner.active_adapters and not config.inference_mode)

    @torch.no_grad()
    def _start_from_weights(self, adapter_name: str) -> None:
        for _, layer in self.layers_with(adapter_name):
            network = cast(FactorNetwork, layer.networks[adapter_name])
            if any(parameter.is_meta for parameter in network.parameters()):
                continue  # about to be loaded
            left, right = leading_factors(layer.base_matrix(), network.fit_rank)
            network.fit(left / layer.scalings[adapter_name], right)

    @torch.no_grad()
    def _start_from_lora(self, adapter_name: str, config: AdapterConfig) -> None:
        given = lora_factors(config.lora_path)
        for name, layer in self.layers_with(adapter_name):
            network = cast(FactorNetwork, layer.networks[adapter_name])
            if name in given and not any(parameter.is_meta for parameter in network.parameters()):
                left, right = given[name]
                network.fit(left / layer.scalings[adapter_name], right)


def _place(name: str) -> tuple[str, str]:
    """Take a module's name apart into its layer and its place in it.

    Example:
        >>> _place("encoder.layer.3.attention.self.query")
        ('encoder.layer.3', 'attention.self.query')
        >>> _place("score")
        ('', 'score')
    """
    found = re.fullmatch(r"((?:.*?\.)?\d+)\.(.+)", name)
    return (found[1], found[2]) if found else ("", name)


def _head_size(config: dict[str, Any]) -> int | None:
    """Read the size of an attention head off a transformers config."""

    def first(*names: str) -> Any:
        return next((config[name] for name in names if config.get(name)), None)

    size, heads = first("hidden_size", "n_embd", "d_model"), first("num_attention_heads", "n_head", "num_heads")
    return first("head_dim", "d_kv") or (size // heads if size and heads else None)
