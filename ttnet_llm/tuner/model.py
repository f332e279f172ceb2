"""The tuner: puts a method's layers into a model, and back out. Shared by all methods."""

import copy
import difflib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import get_quantization_kwargs
from peft.utils.error import NoMatchingPeftModuleError
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.tuner.base_weights import computes_with_weight
from ttnet_llm.tuner.by_adapter import adding
from ttnet_llm.tuner.bypassed import watch
from ttnet_llm.tuner.classes import settle_classes
from ttnet_llm.tuner.config import AdapterConfig
from ttnet_llm.tuner.layer import BASE, AdapterLayer
from ttnet_llm.tuner.mixed import Kept
from ttnet_llm.tuner.names import expert_parameters, is_target, plain_name
from ttnet_llm.tuner.straight_through import pass_gradients
from ttnet_llm.tuner.targets import INPUTS, STATE_SPACE, all_linear, default_targets, is_linear
from ttnet_llm.tuner.ties import shared_parameters, ties_declared
from ttnet_llm.tuner.unmatched import of_experts, warn_of_passed_over, warn_of_unmatched

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class AdapterModel(BaseTuner):
    """Base of every method's tuner; a method sets `prefix`, `tuner_layer_cls` and `target_module_mapping`.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import MeloraConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), MeloraConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, AdapterModel), list(model.base_model.adapter_layers())
        (True, ['0'])
    """

    tuner_layer_cls: type[AdapterLayer]
    default_names: ClassVar[tuple[tuple[str, ...], ...]] = (INPUTS, STATE_SPACE)  # for architectures not in the mapping
    _frozen: Sequence[nn.Module] = ()  # copies of whole modules that were frozen when all was switched off
    adapts_feed_forward: ClassVar[bool] = False  # whether the default targets are meant to be a decoder's MLPs

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter into the model; where names match no module, say so, and which come near.

        Args:
            model: The model to change.
            adapter_name: The adapter's name.
            *args: As `BaseTuner.inject_adapter` takes them.
            **kwargs: As `BaseTuner.inject_adapter` takes them.

        Raises:
            NoMatchingPeftModuleError: If no module of the model is targeted.
        """
        with adding(adapter_name):
            self._inject(model, adapter_name, *args, **kwargs)

    def _inject(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Put an adapter into the model, by walks that pass by all others."""
        settle_classes(model, self.peft_config[adapter_name])
        asked = copy.copy(self.peft_config[adapter_name])  # the defaults are about to be filled in
        try:
            with warnings.catch_warnings():
                # `warn_of_unmatched` says more, and knows that these may be the names of parameters.
                warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys did not match")
                warnings.filterwarnings("ignore", "You have passed exclude_modules=.* but no modules were excluded")
                warnings.filterwarnings("ignore", "target_(modules|parameters)=.* were set but no")
                super().inject_adapter(model, adapter_name, *args, **kwargs)
        except NoMatchingPeftModuleError as error:
            hints = near_misses(model, asked.target_modules), of_experts(expert_parameters(model), asked)
            raise NoMatchingPeftModuleError(" ".join(filter(None, [str(error), *hints]))) from error
        if kwargs.get("state_dict") is None:  # which otherwise says what is adapted
            self._warn_of_unmatched(model, asked, adapter_name)
        layers = self.adapter_layers()
        fresh = {name: layer for name, layer in layers.items() if list(layer.networks) == [adapter_name]}
        watch(self, {name: layer for name, layer in fresh.items() if layer.wraps_module})
        pass_gradients(self.model)
        self._mark_shared_weights()

    def adapter_layers(self) -> dict[str, AdapterLayer]:
        """Give the model's adapted layers by the full names of their modules and parameters."""
        named = self.model.named_modules()
        return {plain_name(name): module for name, module in named if isinstance(module, self.tuner_layer_cls)}

    def _check_tied_modules(self, model: nn.Module, peft_config: AdapterConfig) -> None:
        """Say nothing: PEFT warns of what merging does to tied weights, which it takes apart here."""

    def _mark_shared_weights(self) -> None:
        shared = shared_parameters(self.model)
        for layer in self.adapter_layers().values():
            layer.shares_weight = id(layer.get_base_layer()._parameters.get(layer.weight_name)) in shared

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        with ties_declared(self.model):
            return super()._unload_and_optionally_merge(*args, **kwargs)

    def _warn_of_unmatched(self, model: nn.Module, asked: AdapterConfig, adapter_name: str) -> None:
        everything = str(asked.target_modules).lower() == "all-linear"
        adapted = [name for name, layer in self.adapter_layers().items() if adapter_name in layer.networks]
        if everything or (asked.target_modules is None and self.adapts_feed_forward):
            warn_of_passed_over(model, asked, adapted)
        default = self.target_module_mapping.get(self.get_model_config(model)["model_type"])
        if not isinstance(default, str) and asked.target_modules == set(default or ()):
            asked.target_modules = None  # saved with the adapter; for several variants of the architecture
        warn_of_unmatched(model, asked, adapted)

    def _prepare_adapter_config(self, peft_config: AdapterConfig, model_config: dict[str, Any]) -> AdapterConfig:
        kind = model_config["model_type"]
        if peft_config.target_modules is None and kind not in self.target_module_mapping:
            # A model that is not one of transformers' may mean anything by the names of its layers.
            found = [] if kind == "custom" else default_targets(self.model, *self.default_names)
            if not found and not peft_config.target_parameters:
                raise TTValueError(
                    f"target_modules is None, and {self.method_name} has no default for the architecture {kind!r}. "
                    "Please specify `target_modules`: linear layers of this model are "
                    f"{', '.join(linear_names(self.model))}."
                )
            peft_config.target_modules = set(found)
        elif str(peft_config.target_modules).lower() == "all-linear":
            peft_config.target_modules = all_linear(self.model, peft_config)
        peft_config = super()._prepare_adapter_config(peft_config, model_config)
        if peft_config.train_norms:
            # PEFT's own mechanism for whole modules then trains, saves, restores and switches them.
            kept = list(peft_config.modules_to_save or [])
            peft_config.modules_to_save = kept + [n for n in norm_names(self.model, kept) if n not in kept]
        return peft_config

    def disable_adapter_layers(self) -> None:
        """Switch all adapters off, and remember which modules that are trained whole were frozen."""
        if not any(module.disable_adapters for module in self.modules() if isinstance(module, AdapterLayer)):
            self._frozen = [copy for copy in self._trained_copies() if not _is_trainable(copy)]
        super().disable_adapter_layers()

    def enable_adapter_layers(self) -> None:
        """Switch the active adapters on again; unlike PEFT alone, leave frozen what was frozen before."""
        super().enable_adapter_layers()
        for duplicate in self._frozen:
            duplicate.requires_grad_(False)
        self._frozen = ()

    def _trained_copies(self) -> Iterator[nn.Module]:
        for module in self.modules():
            if isinstance(module, ModulesToSaveWrapper):
                yield from (module.modules_to_save[name] for name in module.active_adapters)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to add adapters up; methods whose update is linear override this.

        Args:
            *args: As the methods that have sums take them.
            **kwargs: The same.

        Returns:
            Nothing here.

        Raises:
            TTTypeError: Always.
        """
        raise TTTypeError(
            f"{self.method_name} adapters have no sum: they are not linear in their input. Use one for each row of a "
            "batch (adapter_names), or train one on the data of all."
        )

    @property
    def method_name(self) -> str:
        """The method's name in lower case."""
        return self.prefix.removesuffix("_")

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> Any:
        return is_target(peft_config, key)

    def _create_and_replace(
        self,
        peft_config: AdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        peft_config = peft_config.for_module(current_key)
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
            return
        base_layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not is_linear(base_layer, self.tuner_layer_cls.base_types):
            kinds = ", ".join(kind.__name__ for kind in self.tuner_layer_cls.base_types)
            raise TTTypeError(
                f"Target module {current_key} is a {type(base_layer).__name__}, which is not supported; expected one "
                f"of {kinds}, or a quantised linear layer. Name other target_modules, or put this one into "
                "exclude_modules."
            )
        if "router" in type(base_layer).__name__.lower():
            raise TTTypeError(
                f"Target module {current_key} is a {type(base_layer).__name__}, which chooses experts and gives more "
                "than a product; leave it out of target_modules."
            )
        if isinstance(base_layer, nn.Embedding) and not computes_with_weight(base_layer):
            raise TTTypeError(
                f"Target module {current_key} is a {type(base_layer).__name__}, which does something else than look "
                "its input up, as tables of positions do. Name other target_modules, or put this one into "
                "exclude_modules."
            )
        layer = self.tuner_layer_cls(target, adapter_name, peft_config, **get_quantization_kwargs(self))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # a further adapter is trainable only once it is set active
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # The new module has the old one's weight already, on its device. PEFT would set and move it once more, which
        # fails for a head of several layers, that has no `weight`, and for buffers that are yet to be loaded.
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        if not autocast_adapter_dtype:
            for module in self.modules():
                if isinstance(module, self.tuner_layer_cls):
                    module.cast_to_base_dtype(adapter_name)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names`, one for each row of the batch, to every layer during one forward or generate."""
        adapter_names = kwargs.get("adapter_names")
        if adapter_names is None:
            yield
            return
        if self.training:
            raise TTValueError("Cannot pass `adapter_names` when the model is in training mode; call `eval()` first.")
        with adding():  # passing by all adapters
            modules = list(self.modules())
        layers = [m for m in modules if isinstance(m, AdapterLayer)]
        if not all(layer.wraps_module for layer in layers):
            raise TTValueError(
                "adapter_names is given, but an adapter is on experts, which see the tokens of all rows together; give "
                "every adapter a batch of its own, or leave the experts out of the adapters."
            )
        known = {name for layer in layers for name in layer.networks} | {BASE}
        unknown = sorted(set(adapter_names) - known)
        if unknown:
            raise TTValueError(
                f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}; there are "
                f"{', '.join(sorted(known))}."
            )
        pass_names = partial(_pass_adapter_names, names=adapter_names, repeats=_repeats(self.model, kwargs))
        handles = [
            module.register_forward_pre_hook(pass_names, with_kwargs=True)
            for module in modules
            if isinstance(module, AdapterLayer | AuxiliaryTrainingWrapper)
        ]
        kept = Kept()
        for layer in layers:
            layer.kept = kept
        try:
            yield
        finally:
            for layer in layers:
                layer.kept = None
            for handle in handles:
                handle.remove()

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: AdapterConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        with adding(adapter_name):  # whose keys alone are asked for
            return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # A network is a module with parameters at any depth, so the adapter's name stands right after the
        # container's name and not, as PEFT's default assumes, before the last part of the key.
        container = re.escape(f".{cls.prefix}network.{adapter_name}.")
        short, found = re.subn(container, f".{cls.prefix}network.", f".{key}", count=1)
        return short[1:] if found else super()._remove_adapter_name_from_key(key, adapter_name)


def near_misses(model: nn.Module, target_modules: Any) -> str:
    """Say which of the model's modules have names close to the targets.

    Args:
        model: The model whose modules are searched.
        target_modules: Names, or one regular expression.

    Returns:
        A sentence, or the empty string where nothing is close.

    Example:
        >>> near_misses(nn.ModuleDict({"q_proj": nn.Linear(2, 2)}), ["q_porj"])
        "No module matches 'q_porj': did you mean 'q_proj'?"
    """
    targets = [target_modules] if isinstance(target_modules, str) else sorted(target_modules or ())
    names = linear_names(model)
    hints = []
    for target in targets:
        close = difflib.get_close_matches(target.rpartition(".")[2], names, n=3, cutoff=0.5)
        if target in close:
            hints.append(f"{target!r} is there, but not where the config's other fields let it be adapted.")
        elif close:
            hints.append(f"No module matches {target!r}: did you mean {' or '.join(map(repr, close))}?")
    if not hints and names:
        hints.append(f"Linear layers of this model are {', '.join(linear_names(model))}.")
    return " ".join(hints)


def linear_names(model: nn.Module) -> list[str]:
    """List the distinct last names of the model's linear layers, in order of appearance.

    Example:
        >>> linear_names(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
        ['0', '2']
    """
    names = (n.removesuffix(".base_layer") for n, m in model.named_modules() if is_linear(m))
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def norm_names(model: nn.Module, skip: list[str]) -> list[str]:
    """List the full names of the model's normalisation layers that have parameters.

    Args:
        model: The model.
        skip: Endings of modules that are trained whole already; what lies inside them is left out.

    Returns:
        The names, in the order of the model.

    Example:
        >>> norm_names(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), skip=[])
        ['1']
    """
    names: list[str] = []
    for name, module in model.named_modules():
        if lies_inside(name, skip) or any(name.startswith(f"{outer}.") for outer in names):
            continue
        # An earlier adapter may have wrapped the layer to train a copy of it.
        module = getattr(module, "original_module", module)
        if name and is_norm(module) and any(True for _ in module.parameters(recurse=False)):
            names.append(name)
    return names


def is_norm(module: nn.Module) -> bool:
    """Tell by its type, or what it is called, whether a module is a normalisation layer."""
    return isinstance(module, NORMS) or type(module).__name__.lower().endswith("norm")


def lies_inside(name: str, modules: list[str]) -> bool:
    """Tell whether a module is one of those with the given name endings, or lies in one.

    Args:
        name: The module's full name.
        modules: Names or name endings.

    Returns:
        Whether it does.

    Example:
        >>> lies_inside("bert.pooler.dense", ["pooler"]), lies_inside("bert.pooler", ["dense"])
        (True, False)
    """
    return any(re.match(rf"(^|.*\.){re.escape(module)}($|\..*)", name) for module in modules)


def _is_trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _repeats(model: nn.Module, kwargs: dict[str, Any]) -> int:
    """Count how often `generate` would repeat every row of the batch, for beams or for several answers."""
    configs = [kwargs.get("generation_config"), getattr(model, "generation_config", None)]
    found = []
    for name in ("num_beams", "num_return_sequences"):
        values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
        found.append(next((value for value in values if value is not None), 1))
    return max(found)


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str], repeats: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # An encoder runs before rows are repeated, and everything else after that.
    if args and len(args[0]) == len(names) * repeats:
        names = [name for name in names for _ in range(repeats)]
    return args, {**kwargs, "adapter_names": names}
