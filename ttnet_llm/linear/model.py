"""The tuner of every linear method: shares networks between modules, and starts adapters where they are told to."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, cast

import torch
from accelerate import init_empty_weights
from peft.tuners.tuners_utils import BaseTunerLayer, onload_layer
from torch import nn

from ttnet.errors import TTValueError
from ttnet_llm.linear.combining import CombineReport, combine
from ttnet_llm.linear.layer import LinearAdapterLayer, layers_with
from ttnet_llm.linear.merging import refusal, warn_of_losses
from ttnet_llm.linear.network import FactorNetwork
from ttnet_llm.linear.parameter import ParameterLayer, owner_of
from ttnet_llm.linear.sharing import Member, SharedView, head_size, share
from ttnet_llm.lora.checkpoint import lora_factors
from ttnet_llm.matrices.thin import leading_factors
from ttnet_llm.tuner import AdapterConfig, AdapterModel
from ttnet_llm.tuner.by_adapter import adding
from ttnet_llm.tuner.names import base_modules, expert_parameters, is_adaptable, place_in_layer, reaches


class LinearModel(AdapterModel):
    """Base of the linear methods' tuners.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import MeloraConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), MeloraConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, LinearModel), list(model.base_model.adapter_layers())
        (True, ['0'])
    """

    tuner_layer_cls: type[LinearAdapterLayer]
    parameter_layer_cls: ClassVar[type[ParameterLayer] | None] = None  # of methods that adapt parameters

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        **kwargs: Any,
    ) -> None:
        """Put an adapter into the model, connect the networks that modules share, and set their start."""
        shares = issubclass(self.tuner_layer_cls.network_cls, SharedView)
        if shares and kwargs.get("state_dict") is not None:
            raise TTValueError(
                f"{self.method_name} cannot be injected by a state_dict, which does not name the modules that share a "
                "network; give the config's target_modules instead."
            )
        super().inject_adapter(
            model,
            adapter_name,
            autocast_adapter_dtype=autocast_adapter_dtype,
            low_cpu_mem_usage=low_cpu_mem_usage,
            **kwargs,
        )
        config = self.peft_config[adapter_name]
        if shares:
            with init_empty_weights() if low_cpu_mem_usage else nullcontext(), adding(adapter_name):
                self._share(adapter_name, config)
        if config.init_weights == "tt_svd":
            self._start_from_weights(adapter_name)
        elif config.init_weights == "lora":
            self._start_from_lora(adapter_name, config)

    def layers_with(self, adapter_name: str) -> Iterator[tuple[str, LinearAdapterLayer]]:
        """List the layers that have an adapter, with the full names of their modules; see `layers_with`.

        Args:
            adapter_name: Name of the adapter.

        Returns:
            The names, as the base model has them, and layers.
        """
        return layers_with(self.model, adapter_name)

    def _prepare_adapter_config(self, peft_config: AdapterConfig, model_config: dict[str, Any]) -> AdapterConfig:
        everything = str(peft_config.target_modules).lower() == "all-linear"
        if everything and peft_config.target_parameters is None and peft_config.why_no_parameters is None:
            experts = [name for name, p in expert_parameters(self.model).items() if is_adaptable(p)]
            peft_config.target_parameters = sorted(set(map(place_in_layer, experts))) or None
        return super()._prepare_adapter_config(peft_config, model_config)

    def _inject_parameters(
        self, peft_config: AdapterConfig, model: nn.Module, adapter_name: str, low_cpu_mem_usage: bool
    ) -> list[str]:
        modules: dict[int, tuple[str, nn.Module]] = {}
        for name, module in base_modules(model):
            modules.setdefault(id(module), (name, module))  # the first name of one that is used twice, as PEFT does
        targeted = []
        for name, module in modules.values():
            for parameter_name, _ in module.named_parameters(recurse=False):
                full_name = f"{name}.{parameter_name}"
                if reaches(peft_config, peft_config.target_parameters or (), full_name):
                    targeted.append(full_name)
                    with init_empty_weights() if low_cpu_mem_usage else nullcontext():
                        self._adapt_parameter(
                            peft_config.for_module(full_name), adapter_name, model, name, parameter_name
                        )
        return targeted

    def _adapt_parameter(
        self, config: AdapterConfig, adapter_name: str, model: nn.Module, module_name: str, parameter_name: str
    ) -> None:
        owner, layer_cls = owner_of(model, module_name), self.parameter_layer_cls
        assert layer_cls is not None  # other methods' configs refuse parameters
        if other := next((layer for layer in owner.layers if not isinstance(layer, layer_cls)), None):
            raise TTValueError(
                f"target_parameters names {module_name}.{parameter_name}, and {other.method} adapts parameters of that "
                f"module already; two methods cannot be told apart there. Use {other.method} for this adapter too."
            )
        if parameter_name in owner.adapted:
            cast(ParameterLayer, owner.adapted[parameter_name]).update_layer(adapter_name, config)
            return
        layer = layer_cls(owner.base_layer, parameter_name, adapter_name, config)
        owner.add(layer)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # as in other layers

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "cat",
        *,
        eps: float | None = None,
        max_rank: int | None = None,
    ) -> CombineReport:
        """Add a new adapter whose updates are weighted sums of those of others.

        Args:
            adapters: Names of adapters of the model.
            weights: A factor for each, of any sign.
            adapter_name: The new adapter's name; it is not set active.
            combination_type: `"cat"` for the exact sum, up to the rounding of float32, whose ranks are at most those of
                the adapters together; `"tt_svd"` for a sum rounded to smaller ranks.
            eps: For "tt_svd" of LoRETTA_rep and TT-LoRA: bound on the relative Frobenius error of every update.
            max_rank: For "tt_svd": bound on the ranks (`tt_rank`, or `r`); where there is no `eps` either, that of the
                first adapter.

        Returns:
            The error of every module's update, and the number of parameters.

        Raises:
            TTTypeError: If the adapters train whole modules besides, or the method cannot be rounded.
            TTValueError: If an argument is out of range, or networks that modules share do not fit together.

        Example:
            >>> from peft import get_peft_model
            >>> from ttnet_llm import TTLoraConfig
            >>> config = TTLoraConfig(target_modules=["0"], init_weights=False)
            >>> model = get_peft_model(nn.Sequential(nn.Linear(16, 16)), config)
            >>> model.add_adapter("other", config)
            >>> report = model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "mean")
            >>> report.error < 1e-6
            True
        """
        return combine(self, adapters, weights, adapter_name, combination_type, eps, max_rank)

    def _check_merge_allowed(self) -> None:
        """Allow it: PEFT warns of tied weights, which come apart here."""

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters and keep them, so that `unmerge_adapter` takes them out again.

        Args:
            adapter_names: The adapters; `None` takes the active ones.
            safe_merge: As `LinearAdapterLayer.merge` takes it.

        Raises:
            TTTypeError: If the weight of a layer cannot take up an update; nothing is merged then.
        """
        layers = self._layers_to_merge(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)
        _warn_of_losses(layers)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        layers = self._layers_to_merge(adapter_names) if merge else {}
        model = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)
        _warn_of_losses(layers)
        return model

    def _layers_to_merge(self, adapter_names: list[str] | None) -> dict[str, LinearAdapterLayer]:
        """List the layers that adapters are about to be merged into, or refuse before the first one is."""
        names = set(self.active_adapters if adapter_names is None else adapter_names)
        every = cast(dict[str, LinearAdapterLayer], self.adapter_layers())
        layers = {name: layer for name, layer in every.items() if names & layer.networks.keys()}
        for name, layer in layers.items():
            if reason := layer.why_not_merged():
                raise refusal(f"{name}, a {type(layer.get_base_layer()).__name__},", reason)
        self._mark_shared_weights()
        return layers

    def unmerge_adapter(self) -> None:
        """Take all merged adapters out again, the last first, so that tied weights come back as they were."""
        for module in reversed(list(self.model.modules())):
            if isinstance(module, BaseTunerLayer):
                with onload_layer(module):
                    module.unmerge()

    def _share(self, adapter_name: str, config: AdapterConfig) -> None:
        layers = dict(self.layers_with(adapter_name))
        members = [
            Member(
                name,
                layer.in_features,
                layer.out_features,
                layer.fan_in,
                cast(SharedView, layer.networks[adapter_name]),
            )
            for name, layer in layers.items()
        ]
        for name, shared in share(members, config, head_size(self.get_model_config(self.model))):
            owner = layers[name]
            owner.check_adapter_name(adapter_name)
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
        names = [name for name, _ in self.layers_with(adapter_name)]
        if given.keys().isdisjoint(names):
            raise TTValueError(
                "the LoRA checkpoint in lora_path adapts none of the modules that are adapted here: it has "
                f"{next(iter(given), 'none')} and the like, and here they are {names[0]} and the like; check "
                "target_modules and the model's class."
            )
        for name, layer in self.layers_with(adapter_name):
            network = cast(FactorNetwork, layer.networks[adapter_name])
            if name in given and not any(parameter.is_meta for parameter in network.parameters()):
                left, right = given[name]
                network.fit(left / layer.scalings[adapter_name], right)


def _warn_of_losses(layers: dict[str, LinearAdapterLayer]) -> None:
    quantised = {
        name: layer.quantization_backend.backend_name
        for name, layer in layers.items()
        if layer.quantization_backend is not None
    }
    warn_of_losses({name: layer.merge_loss for name, layer in layers.items()}, quantised)
