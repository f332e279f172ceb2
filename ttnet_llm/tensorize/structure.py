"""Trains put into a model in place of dense layers, and told of: what a config has to say to put them there again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ttnet.errors import TTFileError, TTTypeError
from ttnet.nn import Layout, TTEmbedding, TTLinear, TTWeight
from ttnet.nn.embedding import scale_of
from ttnet_llm.tensorize.targets import DENSE, TRAINS

Train = TTLinear | TTEmbedding
KINDS = ("linear", "embedding")


def set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another.

    Args:
        model: The model.
        name: The full name of the place.
        module: The new module.
    """
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def tie(
    train: Train, *, table: bool, transposed: bool = False, bias: nn.Parameter | None = None, training: bool = False
) -> nn.Module:
    """Make a layer that shares the weight of another.

    Args:
        train: The layer that has the train.
        table: Whether rows are to be looked up; then it is `train` itself.
        transposed: Whether the layer maps the other way than the train's matrix.
        bias: Its bias, which becomes this very parameter.
        training: Its mode.

    Returns:
        The layer.
    """
    if table:
        return train
    layer = TTLinear.tied(train.tt, transposed=transposed, bias=bias is not None)
    if bias is not None:
        layer.bias = bias
    layer.training = training  # not by `train`, which would set that of the weight, too
    return layer


def describe_trains(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Say what trains a model has, as plain values.

    Args:
        model: The model.

    Returns:
        By the layers' names: kind, layout, modes, ranks and sizes; of a layer that shares the weight of an earlier
        one, the name of that.
    """
    owners: dict[int, str] = {}
    found: dict[str, dict[str, Any]] = {}
    modules = [(n, m) for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, TRAINS)]
    # A table is what is stored, wherever in the model it comes.
    for name, module in sorted(modules, key=lambda entry: not isinstance(entry[1], TTEmbedding)):
        tt = module.tt
        if isinstance(module, TTLinear):
            spec: dict[str, Any] = {"kind": "linear", "transposed": module.transposed, "bias": module.bias is not None}
        else:
            spec = {"kind": "embedding", "padding_idx": module.padding_idx}
            if module.embed_scale is not None:
                spec["embed_scale"] = float(module.embed_scale)
        owner = owners.setdefault(id(tt), name)
        if owner != name:
            spec["tied_to"] = owner
        else:
            layout = tt.layout
            spec |= {
                "rows": tt.rows,
                "layout": layout.kind,
                "modes": [list(layout.row_modes), list(layout.col_modes)],
                "ranks": list(layout.ranks),
            }
        found[name] = spec
    return found


def check_specs(specs: Any) -> None:
    """Make sure that what a config says of trains is in the form that `describe_trains` gives.

    Args:
        specs: What the config says.

    Raises:
        TTFileError: If it is not.
    """
    if not isinstance(specs, Mapping):
        raise TTFileError(
            f"The config's layers of trains are {specs!r}; expected entries by the layers' names: save the model again."
        )
    for name, spec in specs.items():
        wrong = None
        if not isinstance(spec, Mapping):
            wrong = f"it is {spec!r}"
        elif spec.get("kind") not in KINDS:
            wrong = f"its kind is {spec.get('kind')!r}, none of {', '.join(KINDS)}"
        elif "tied_to" in spec:
            owner = specs.get(spec["tied_to"]) if isinstance(spec["tied_to"], str) else None
            if not isinstance(owner, Mapping) or "tied_to" in owner:
                wrong = f"it is tied to {spec['tied_to']!r}, which has no train of its own"
        if wrong is not None:
            raise TTFileError(f"The config's entry of {name!r} is damaged ({wrong}); save the model again.")


def drop_dense(specs: Mapping[str, dict[str, Any]], keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Leave out the layers that a checkpoint holds dense: they were turned back after their trains were described.

    Args:
        specs: As for `build_trains`.
        keys: The names of the checkpoint's tensors.

    Returns:
        The entries of the layers that have trains.

    Raises:
        TTFileError: If one of the others is a table that scales its rows, as it may have the scale in them already.
    """
    keys = set(keys)
    trains = {key.rpartition(".tt.")[0] for key in keys if ".tt." in key}
    owners = {name: spec.get("tied_to", name) for name, spec in specs.items()}
    dense = {owner for name, owner in owners.items() if f"{name}.weight" in keys} - trains
    for name in dense:
        if "embed_scale" in specs[name]:
            raise TTFileError(
                f"The checkpoint holds the table {name!r} dense, which its config names as a train that scales rows; "
                "call ttnet_llm.tensorize.record(model) before it is saved, which checks that no scale is lost."
            )
    return {name: spec for name, spec in specs.items() if owners[name] not in dense}


def check_scales(model: nn.Module, specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Make sure that tables which are dense again scale their rows as before, as the model's class will.

    Args:
        model: The model.
        specs: What `describe_trains` said of it before.

    Raises:
        TTTypeError: If one has the scale in its rows, and would be scaled twice once it is loaded.
    """
    for name, spec in specs.items():
        place = find_place(model, name) if "embed_scale" in spec else None
        table = None if place is None else model.get_submodule(place)
        if not isinstance(table, nn.Embedding):
            continue
        scale = scale_of(table)
        if scale is None or not math.isclose(scale, spec["embed_scale"], rel_tol=2**-7):  # it may be in bfloat16 now
            raise TTTypeError(
                f"{name!r} is a dense table again, but no longer multiplies its rows by {spec['embed_scale']:g}, which "
                "the loaded model would; put a table of the class that the model had there, with the train's weight."
            )


def build_trains(model: nn.Module, specs: Mapping[str, Mapping[str, Any]]) -> dict[str, Train]:
    """Put trains whose cores are yet to be read into a model, without forming or reading a dense weight.

    Layers that share the weight of another are left out: `tie_trains` puts them in once the cores are there.

    Args:
        model: The model, whose names may lie in a part of that which was saved, or the other way round.
        specs: What `describe_trains` said of the saved model.

    Returns:
        The layers by the names that the config has.

    Raises:
        TTFileError: If an entry does not fit the model.
    """
    made: dict[str, Train] = {}
    for name, spec in specs.items():
        place = find_place(model, name)
        if place is None or "tied_to" in spec:
            continue
        dense = model.get_submodule(place)
        try:
            layer = _make(spec, dense)
        except (KeyError, TypeError, ValueError) as error:  # those of ttnet among them
            raise TTFileError(f"The config's entry of {name!r} is damaged ({error}); save the model again.") from error
        if isinstance(layer, TTEmbedding) != isinstance(dense, nn.Embedding):
            raise TTFileError(
                f"The config's entry of {name!r} is of kind {spec['kind']!r}, but the model has a "
                f"{type(dense).__name__} there; take the config that was saved with the weights."
            )
        sizes = (
            (layer.in_features, layer.out_features) if isinstance(layer, TTLinear) else (layer.tt.rows, layer.tt.cols)
        )
        if sizes != _sizes(dense):
            raise TTFileError(
                f"The config's entry of {name!r} is for a layer of {sizes[0]}x{sizes[1]}, but the model has a "
                f"{type(dense).__name__} of {'x'.join(map(str, _sizes(dense)))} there; take the config that was saved "
                "with the weights."
            )
        set_module(model, place, layer)
        made[name] = layer
    return made


def tie_trains(model: nn.Module, specs: Mapping[str, Mapping[str, Any]], made: Mapping[str, Train]) -> None:
    """Put in the layers that share a train, and tell transformers what is tied.

    Args:
        model: The model.
        specs: As for `build_trains`.
        made: What that gave.
    """
    for name, spec in specs.items():
        place, owner = find_place(model, name), made.get(spec.get("tied_to", ""))
        if place is not None and owner is not None:
            held: Any = model.get_submodule(place)
            table, transposed = spec["kind"] == "embedding", spec.get("transposed", False)
            layer = tie(owner, table=table, transposed=transposed, bias=held.bias, training=held.training)
            set_module(model, place, layer)
    declare_ties(model)


def find_place(model: nn.Module, name: str) -> str | None:
    """Find a layer by the name that it had when it was saved, as a part of this model or in a model around it.

    Args:
        model: The model.
        name: The saved name.

    Returns:
        The name in this model; None if it has no such layer.
    """
    prefix = getattr(model, "base_model_prefix", "") + "."
    for candidate in (name, prefix + name, name.removeprefix(prefix)):
        try:
            module = model.get_submodule(candidate)
        except AttributeError:
            continue
        if isinstance(module, (*DENSE, *TRAINS, Placeholder)):
            return candidate
    return None


class Placeholder(nn.Module):
    """Stands, while weights are read, for a layer whose weight is another's; it has the bias only.

    Args:
        dense: The layer that it stands for.
    """

    def __init__(self, dense: nn.Module) -> None:
        super().__init__()
        self.bias = getattr(dense, "bias", None)


def hold_tied_places(model: nn.Module, specs: dict[str, dict[str, Any]], made: Mapping[str, Train]) -> None:
    """Put placeholders where layers share a train, so that transformers neither looks for their weights nor makes them.

    Args:
        model: The model, as `build_trains` left it.
        specs: As for `build_trains`; layers that this model ties to a train and the saved one had not are added.
        made: What `build_trains` gave.
    """
    for name, spec in specs.items():
        found = find_place(model, name)
        if found is not None and spec.get("tied_to") in made:
            set_module(model, found, Placeholder(model.get_submodule(found)))
    # Only now, as the same place may have another name in the saved model.
    names = {id(layer): name for name, layer in made.items()}
    ties: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", {}))
    for target, source in ties.items():
        if not (target.endswith(".weight") and source.endswith(".weight")):
            continue
        owner = names.get(id(model.get_submodule(source.removesuffix(".weight"))))
        place = target.removesuffix(".weight")
        if owner is not None and isinstance(dense := model.get_submodule(place), DENSE):
            kind = "embedding" if isinstance(dense, nn.Embedding) else "linear"
            specs[place] = {"kind": kind, "transposed": isinstance(made[owner], TTEmbedding), "tied_to": owner}
            set_module(model, place, Placeholder(dense))
    if isinstance(model, PreTrainedModel):
        model.all_tied_weights_keys = {t: s for t, s in ties.items() if not _is_of_a_train(model, s)}


def declare_ties(model: nn.Module) -> None:
    """Tell transformers which parameters are the same, in the place of the dense weights that were.

    Args:
        model: The model, with all its trains in place.
    """
    if not isinstance(model, PreTrainedModel):
        return
    for part in model.modules():
        declared = getattr(part, "_tied_weights_keys", None)
        if isinstance(part, PreTrainedModel) and isinstance(declared, dict):
            # On the instance: other models of the class keep theirs.
            part._tied_weights_keys = {t: s for t, s in declared.items() if not _is_of_a_train(part, s)}
    expanded = {t: s for t, s in model.all_tied_weights_keys.items() if not _is_of_a_train(model, s)}
    shared = {name: spec["tied_to"] for name, spec in describe_trains(model).items() if "tied_to" in spec}
    if shared:
        own: dict[str, str] = dict(model._tied_weights_keys or {})
        own |= {f"{name}.tt": f"{owner}.tt" for name, owner in shared.items()}
        model._tied_weights_keys = own
        for name, owner in shared.items():
            train: Any = model.get_submodule(owner)
            cores = range(len(train.tt.cores))
            expanded |= {f"{name}.tt.cores.{k}": f"{owner}.tt.cores.{k}" for k in cores}
    model.all_tied_weights_keys = expanded


def _is_of_a_train(model: nn.Module, parameter: str) -> bool:
    """Tell whether a name is that of the dense weight that a train has replaced, or of one of the train's cores."""
    place = parameter.removesuffix(".weight").rpartition(".tt")[0] or parameter.removesuffix(".weight")
    try:
        return isinstance(model.get_submodule(place), TRAINS)
    except AttributeError:
        return False


def _make(spec: Mapping[str, Any], dense: Any) -> Train:
    rows_, cols_ = spec["modes"]
    layout = Layout(spec["layout"], tuple(rows_), tuple(cols_), tuple(spec["ranks"]))
    device, dtype = dense.weight.device, dense.weight.dtype
    tt = TTWeight(layout, spec["rows"], device=device, dtype=dtype)
    if spec["kind"] == "embedding":
        table = TTEmbedding.__new__(TTEmbedding)
        table._build(tt, spec["padding_idx"], 0, spec.get("embed_scale", 1.0))
        return table.train(dense.training)
    layer = TTLinear.tied(tt, transposed=spec["transposed"], bias=spec["bias"])
    bias = getattr(dense, "bias", None)
    if layer.bias is not None and bias is not None:
        layer.bias = bias
    return layer.train(dense.training)


def _sizes(dense: Any) -> tuple[int, ...]:
    rows, cols = dense.weight.shape
    return (cols, rows) if isinstance(dense, nn.Linear) else (rows, cols)
