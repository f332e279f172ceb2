"""Models with trains saved and loaded by transformers' own functions.

What trains a model has stands in its config, under `quantization_config`: the one place that transformers asks, between
making a model on the meta device and reading its weights, what to put in the place of its layers. Nothing is quantised,
and once it is loaded the model does not say that it were, so that it trains, moves and takes adapters like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm.entries import method_in
from ttnet_llm.folders import atomic_folder
from ttnet_llm.tensorize.structure import (
    Train,
    build_trains,
    check_scales,
    check_specs,
    describe_trains,
    drop_dense,
    hold_tied_places,
    tie_trains,
)
from ttnet_llm.training.model import load_config

METHOD = "ttnet"
_FORMAT = 1
WEIGHTS = "trains"  # what weight files are called, which transformers by itself does not look for
# Stands for their name in the config. transformers ends its error with it where this package is not imported.
_UNREAD = "tensor trains, which `import ttnet_llm` makes known to transformers; import it before loading the model"


class TrainsConfig(QuantizationConfigMixin):
    """The trains of a model, as its config has them.

    Args:
        layers: What `describe_trains` says.
        version: Of the format.
        weights: The file with the weights, or with the index of several; None where it has transformers' own name.
        **_: What transformers adds.
    """

    def __init__(
        self,
        layers: dict[str, dict[str, Any]] | None = None,
        version: int = _FORMAT,
        weights: str | None = None,
        **_: Any,
    ) -> None:
        self.quant_method: Any = METHOD
        self.layers = {} if layers is None else layers
        self.version = version
        self.weights = weights

    def to_dict(self) -> dict[str, Any]:
        """Give the entry of the config that `from_dict` reads."""
        return {key: value for key, value in super().to_dict().items() if key != "weights" or value is not None}


class TrainsLoader(HfQuantizer):
    """Puts trains into a model on the meta device, before transformers reads the weights."""

    requires_calibration = True  # transformers then refuses to make a model so that is not saved so

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Say that such models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Say that such models can be trained."""
        return True

    def update_attn_implementation(self, config: PretrainedConfig) -> PretrainedConfig:
        """Say which file has the weights: of what transformers asks with the config, this comes before it looks."""
        if getattr(config, "transformers_weights", None) == _UNREAD:
            name = str(self.quantization_config.weights)
            if not re.fullmatch(rf"{WEIGHTS}\.safetensors(\.index\.json)?", name):
                raise TTFileError(f"The config names {name!r} for the weights of trains; save the model again.")
            config.transformers_weights = name
        return config

    update_tp_plan = update_attn_implementation  # so it was up to transformers 5.17

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Iterable[str] | None = None, **_: Any
    ) -> None:
        config = self.quantization_config
        if config.version != _FORMAT:
            raise TTFileError(
                f"The config's entry of trains is of format {config.version}; expected format {_FORMAT}: use the "
                "version of ttnet_llm that saved the model."
            )
        check_specs(config.layers)
        if not config.layers:
            raise TTFileError(
                "The config's entry of trains has no layers; expected at least one: save the model again."
            )
        files = [str(file) for file in checkpoint_files or ()]
        shapes = _read_shapes(files)
        self._specs = drop_dense({name: dict(spec) for name, spec in config.layers.items()}, shapes)
        self._made = build_trains(model, self._specs)
        if self._specs and not self._made:
            raise TTFileError(
                f"None of the layers that the config names is in a {type(model).__name__} ("
                f"{next(iter(self._specs))!r}, for one); load the model with the class that it was saved from."
            )
        hold_tied_places(model, self._specs, self._made)
        if shapes:
            _check_checkpoint(self._made, shapes, str(Path(files[0]).parent))

    def postprocess_model(self, model: PreTrainedModel, **_: Any) -> Any:
        """Finish the model, and let it be an ordinary one."""
        tie_trains(model, self._specs, self._made)
        for layer in self._made.values():
            layer._apply(lambda tensor: tensor)  # plans are for the device where the cores are now
        self.remove_quantization_config(model)
        return record(model)


def _register() -> None:
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(TrainsConfig)
        register_quantizer(METHOD)(TrainsLoader)


_register()


def record(model: nn.Module) -> nn.Module:
    """Write into a model's config which trains it has, so that it is saved with them.

    `tensorize` and `RankSchedule` do so; call it after changing ranks by hand, or putting dense layers back. Of a model
    that has no trains any more the config does not say that it had.

    Args:
        model: The model; one without a config is left as it is.

    Returns:
        The same model.

    Raises:
        TTTypeError: If the model is quantised, or a table that is dense again has lost its scale.

    Example:
        >>> from transformers import AutoModel
        >>> from ttnet_llm.tensorize import tensorize
        >>> model = AutoModel.from_pretrained("encoder")
        >>> report = tensorize(model, targets="all-linear", ratio=0.5, progress=False)
        >>> record(model) is model
        True
    """
    check_unquantised(model)
    for part in model.modules():
        config = getattr(part, "config", None)
        if isinstance(part, PreTrainedModel) and config is not None:
            earlier = getattr(config, "quantization_config", None)
            if isinstance(earlier, TrainsConfig):
                check_scales(part, earlier.layers)
            if layers := describe_trains(part):
                config.quantization_config = TrainsConfig(layers)
                break  # parts have the same config
            if is_tensorized(config):
                del config.quantization_config
    return model


def check_unquantised(model: nn.Module) -> None:
    """Refuse a model whose config already says how it is quantised, and so cannot say what trains it has.

    Args:
        model: The model.

    Raises:
        TTTypeError: If it is quantised.
    """
    entry = getattr(getattr(model, "config", None), "quantization_config", None)
    if isinstance(model, PreTrainedModel) and entry is not None and not is_tensorized(model.config):
        method = getattr(entry, "quant_method", None)
        if str(method) == "ttnet-slim":
            raise TTTypeError(
                "model is slim, and its config has one entry for either that or trains; tensorise the whole model."
            )
        raise TTTypeError(
            f"model is quantised ({getattr(method, 'value', method)}), and its config has one entry for either that or "
            "trains; tensorise the unquantised model, and quantise layers that are left by the tool's own function."
        )


def is_tensorized(config: Any) -> bool:
    """Tell whether a model's config says that it has trains.

    Args:
        config: The config.

    Returns:
        Whether it does.
    """
    return bool(method_in(config) == METHOD)


def load_tensorized(path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Load a model with trains, of the class that it was saved from.

    `AutoModel...from_pretrained` does the same, for the class that it stands for, once `ttnet_llm` is imported. No
    dense weight is formed on the way.

    Args:
        path: The folder, or a hub id.
        **kwargs: As `from_pretrained` takes them.

    Returns:
        The model, in evaluation mode.

    Raises:
        TTFileError: If there is no such model, it has no trains, or its weights do not fit its config.
        TTTypeError: If its class is none of transformers'.

    Example:
        >>> from transformers import AutoModel
        >>> from ttnet_llm.tensorize import tensorize
        >>> model = AutoModel.from_pretrained("encoder")
        >>> report = tensorize(model, targets="all-linear", ratio=0.5, progress=False)
        >>> save_tensorized(model, "small")
        >>> load_tensorized("small").num_parameters() == model.num_parameters()
        True
    """
    config = load_config(str(path))
    if not is_tensorized(config):
        raise TTFileError(f"The model in {str(path)!r} has no trains; load it with transformers' from_pretrained.")
    names = getattr(config, "architectures", None) or []
    model_cls = next((cls for name in names if (cls := getattr(transformers, name, None)) is not None), None)
    if model_cls is None:
        raise TTTypeError(
            f"The model in {str(path)!r} is of the class {names}, which transformers does not have; load it by that "
            "class's own from_pretrained."
        )
    try:
        model: PreTrainedModel = model_cls.from_pretrained(path, **kwargs)
    except SafetensorError as error:
        raise TTFileError(f"The weights in {str(path)!r} cannot be read: {error}") from error
    return model


def save_tensorized(model: PreTrainedModel, path: str | Path, *, tokenizer: Any = None, report: Any = None) -> None:
    """Save a model with trains, so that the folder is either whole or as it was, whenever the program stops.

    `model.save_pretrained` writes the same, one file after the other, and under transformers' own name: a program that
    has not imported this package then loads fresh weights in place of the trains, with a warning, and refuses what is
    written here.

    Args:
        model: The model.
        path: A new folder, or one that this function or `ttnet-llm tensorize` wrote, which is replaced.
        tokenizer: What is saved with it by its own `save_pretrained`; None for nothing.
        report: A `TensorizeReport` to save with it as `tensorize.json`; None for none.

    Raises:
        TTTypeError: If the model is none of transformers'.
        TTValueError: If it has no trains.
        TTFileError: If the folder holds something else, which would be lost.

    Example:
        >>> from transformers import AutoModel
        >>> from ttnet_llm.tensorize import tensorize
        >>> model = AutoModel.from_pretrained("encoder")
        >>> report = tensorize(model, targets="all-linear", ratio=0.5, progress=False)
        >>> save_tensorized(model, "small", report=report)
        >>> sorted(path.name for path in Path("small").iterdir())
        ['config.json', 'tensorize.json', 'trains.safetensors', 'ttnet_llm.json']
    """
    if not isinstance(model, PreTrainedModel):
        raise TTTypeError(f"model is a {type(model).__name__}; expected a model of transformers'.")
    if not describe_trains(model):
        raise TTValueError("model has no trains; save it with its save_pretrained.")
    with model_folder(path) as folder:
        write_tensorized(model, folder, tokenizer=tokenizer, report=report)


def model_folder(path: str | Path, *, reads: Iterable[str | None] = ()) -> AbstractContextManager[Path]:
    """Give a temporary folder for a model, which takes the place of `path` once the block has ended well.

    Args:
        path: A new folder, or that of an earlier model with trains, which is replaced.
        reads: Files and folders that are read meanwhile, and must not be replaced.

    Returns:
        A context manager for the temporary folder; on entering it raises `TTFileError` if `path` holds something else.
    """
    return atomic_folder(path, kind="tensorize", reads=reads, also=("tensorize.png",))


def write_tensorized(model: PreTrainedModel, folder: Path, *, tokenizer: Any, report: Any) -> None:
    """Write the files of a model with trains, one after the other.

    Args:
        model: The model.
        folder: An empty folder.
        tokenizer: As for `save_tensorized`.
        report: As for `save_tensorized`.
    """
    record(model)
    model.save_pretrained(folder)
    if is_tensorized(model.config):  # or all layers have stayed dense
        _rename_weights(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if report is not None:
        (folder / "tensorize.json").write_text(report.to_json() + "\n", encoding="utf-8")


def _rename_weights(folder: Path) -> None:
    """Give weight files a name by which nobody reads them as those of a dense model, and let the config say so."""
    for file in folder.glob("model*.safetensors"):
        file.rename(folder / file.name.replace("model", WEIGHTS, 1))
    weights, index = f"{WEIGHTS}.safetensors", folder / "model.safetensors.index.json"
    if index.exists():
        weights += ".index.json"
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {key: name.replace("model", WEIGHTS, 1) for key, name in content["weight_map"].items()}
        _write_json(content, folder / weights)
        index.unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["transformers_weights"] = _UNREAD
    config["quantization_config"]["weights"] = weights
    _write_json(config, folder / "config.json")


def _write_json(content: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_shapes(files: list[str]) -> dict[str, tuple[int, ...]]:
    """Read names and shapes of all tensors from the headers of a checkpoint; nothing if they are not safetensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            return {}
        try:
            with safe_open(file, framework="pt") as opened:
                shapes |= {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise TTFileError(f"The weights in {file!r} cannot be read: {error}") from error
    return shapes


def _check_checkpoint(made: dict[str, Train], shapes: dict[str, tuple[int, ...]], folder: str) -> None:
    """Compare names and shapes of all cores with those of the checkpoint, before anything is read."""
    saved = {key.rpartition(".tt.")[0] for key in shapes if ".tt.cores." in key}
    for name, layer in made.items():
        if name not in saved and saved - made.keys():
            continue  # transformers has other names for the keys of some architectures, and translates them itself
        for key, tensor in nn.Module.state_dict(layer.tt).items():
            full = f"{name}.tt.{key}"
            if full not in shapes:
                raise TTFileError(
                    f"The checkpoint {json.dumps(folder)} lacks {full!r}, which its config names; "
                    "save the model again, or take the whole checkpoint."
                )
            if shapes[full] != tuple(tensor.shape):
                raise TTFileError(
                    f"The checkpoint {json.dumps(folder)} holds {full!r} of shape {shapes[full]}; "
                    f"its config expects {tuple(tensor.shape)}: take the config that was saved with the weights."
                )
