"""An existing LoRA adapter as a TT-LoRA or LoRETTA_rep adapter, by TT-SVD to a stated error.

The update of a module is never formed. Its two thin factors are trains already, once reshaped and cut by TT-SVD; joined
at the bond between them they are the update's train, exactly, and rounding it bounds the error of the update itself.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ttnet
from ttnet import TensorTrain
from ttnet.errors import TTTypeError, TTValueError
from ttnet.modes import choose_modes, num_parameters
from ttnet.numerics.truncation import check_eps
from ttnet_llm.folders import output_folder
from ttnet_llm.linear import FactorNetwork
from ttnet_llm.lora.checkpoint import PREFIX, LoraCheckpoint, exactly, read_lora, write_adapter
from ttnet_llm.matrices.thin import product_error, thin_svd
from ttnet_llm.matrices.train_matrix import load_cores
from ttnet_llm.networks.loretta_rep import LorettaRepConfig, LorettaRepNetwork
from ttnet_llm.networks.tt_lora import TTLoraConfig, TTLoraNetwork
from ttnet_llm.tuner import AdapterConfig

METHODS = ("tt_lora", "loretta_rep")
COMPRESSED = "compress"  # what marks the folders written here

ROUNDING = 1e-6  # what storing the cores in float32 may cost of an update, relative to it

Factors = Mapping[str, tuple[Tensor, Tensor]]  # of every module's update, of shapes (m, k) and (k, n)
Modes = dict[int, tuple[int, ...]]  # of every size, from the outer end of a train to the cut


@dataclass(frozen=True)
class CompressedModule:
    """What became of one module.

    Args:
        name: Its full name.
        shape: Its input and output size.
        ranks: The ranks of its train, the outer ones included.
        parameters: Number of parameters of the train.
        lora_parameters: Number of parameters that LoRA had.
        error: Relative Frobenius error of the update as stored.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig, get_peft_model
        >>> model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)), LoraConfig(target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     report = compress_lora(folder, max_rank=2)
        >>> [(module.name, module.shape) for module in report.modules]
        [('0', (64, 64))]
    """

    name: str
    shape: tuple[int, int]
    ranks: tuple[int, ...]
    parameters: int
    lora_parameters: int
    error: float


@dataclass(frozen=True)
class CompressReport:
    """What was compressed, and where to.

    Args:
        path: The folder; `None` if nothing was written.
        method: The method of the new adapter.
        modules: The modules, in the order of the file.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig, get_peft_model
        >>> model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)), LoraConfig(target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     report = compress_lora(folder, max_rank=2)
        >>> report.method, report.lora_parameters, report.path
        ('tt_lora', 1024, None)
    """

    path: Path | None
    method: str
    modules: tuple[CompressedModule, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters of all trains."""
        return sum(module.parameters for module in self.modules)

    @property
    def lora_parameters(self) -> int:
        """Number of parameters that LoRA had."""
        return sum(module.lora_parameters for module in self.modules)

    @property
    def error(self) -> float:
        """The largest relative Frobenius error of an update."""
        return max(module.error for module in self.modules)


def compress_lora(
    path: str | Path,
    output: str | Path | None = None,
    *,
    method: str = "tt_lora",
    eps: float | None = None,
    max_rank: int | None = None,
    budget: int | None = None,
) -> CompressReport:
    """Turn a LoRA adapter into one made of tensor trains, without the base model.

    Every update becomes a train over modes of its input and output sizes, one choice of modes for each size, made so
    that all trains together have the fewest parameters. Heads, norms and biases that LoRA trained go along.

    Args:
        path: Folder of a LoRA checkpoint of PEFT's.
        output: A new folder, or that of an earlier compression, which is replaced once the new adapter is whole.
            `None` writes nothing, to see what an error would cost.
        method: `"tt_lora"` or `"loretta_rep"`, which need as many parameters.
        eps: Bound on the relative Frobenius error of every update, at least 0. None or 0 keeps the updates up to the
            rounding of float32, a relative error of 1e-6.
        max_rank: Bound on all ranks, at least 1; it goes before `eps`.
        budget: Number of parameters that all trains together may have; the smallest common error that keeps to it is
            chosen. Not together with `eps`.

    Returns:
        Ranks, parameters and errors. The new adapter is loaded by PEFT once `ttnet_llm` is imported.

    Raises:
        TTFileError: If the folder has no LoRA checkpoint, or `output` holds something else.
        TTTypeError: If the checkpoint is of another method, or its update is not a plain product.
        TTValueError: If an argument is out of range, a weight is not finite, or the budget is too small.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig, get_peft_model
        >>> model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)), LoraConfig(target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     report = compress_lora(folder, eps=0.1)
        >>> report.parameters, report.lora_parameters, report.error
        (24, 1024, 0.0)
    """
    _check_arguments(method, eps, max_rank, budget)
    checkpoint = read_lora(path)
    if output is not None:
        output_folder(output, kind=COMPRESSED, reads=(path,))
    for name, factors in checkpoint.factors.items():
        if not all(bool(torch.isfinite(factor).all()) for factor in factors):
            raise TTValueError(f"The LoRA weights of {name!r} are NaN or infinite; there is nothing to compress.")
    trains = _Trains(checkpoint.factors, mirrored=method == "loretta_rep", max_rank=max_rank)
    chosen = trains.rounded(check_eps(eps)) if budget is None else _within(trains, budget)
    config, networks = _STORES[method](checkpoint.factors, chosen, _kept(checkpoint, method))
    modules = tuple(
        CompressedModule(
            name,
            (left.shape[0], right.shape[1]),
            chosen[name].ranks,
            sum(parameter.numel() for parameter in networks[name].parameters()),
            left.numel() + right.numel(),
            product_error(left, right, *copy.deepcopy(networks[name]).double().factors()),
        )
        for name, (left, right) in checkpoint.factors.items()
    )
    if output is not None:
        tensors = dict(checkpoint.others)
        for name, network in networks.items():
            tensors |= {f"{PREFIX}{name}.{method}_network.{key}": t for key, t in network.state_dict().items()}
        write_adapter(output, config, tensors, kind=COMPRESSED, classes=checkpoint.classes)
    return CompressReport(None if output is None else Path(output), method, modules)


def as_trains(
    factors: Factors, method: str, *, eps: float | None = None, max_rank: int | None = None, **fields: Any
) -> tuple[AdapterConfig, dict[str, FactorNetwork]]:
    """Write updates as the networks of an adapter made of trains.

    Args:
        factors: For every module, by its name, factors of shapes `(m, k)` and `(k, n)` whose product is its update.
        method: `"tt_lora"` or `"loretta_rep"`.
        eps: Bound on the relative Frobenius error of every update; None or 0 keeps them up to the rounding of float32.
        max_rank: Bound on all ranks; it goes before `eps`.
        **fields: Fields of the config that say nothing of ranks, such as `target_modules`.

    Returns:
        The config, whose updates are scaled by 1, and a network for every module.

    Example:
        >>> config, networks = as_trains({"0": (torch.ones(8, 1), torch.ones(1, 8))}, "tt_lora", target_modules=["0"])
        >>> config.rank_pattern["^0"], sum(core.numel() for core in networks["0"].parameters())
        ({'tt_rank': [1, 1, 1]}, 12)
    """
    trains = _Trains(factors, mirrored=method == "loretta_rep", max_rank=max_rank)
    return _STORES[method](factors, trains.rounded(check_eps(eps)), fields)


def factor_train(
    left: Tensor,  # (m, k)
    right: Tensor,  # (k, n)
    in_modes: tuple[int, ...],
    out_modes: tuple[int, ...],
    mirrored: bool = False,
) -> TensorTrain:
    """Write a product of thin factors as one tensor train, exactly and without forming it.

    Args:
        left: Shape `(m, k)`.
        right: Shape `(k, n)`.
        in_modes: Modes with product m.
        out_modes: Modes with product n, in the order of the train.
        mirrored: Whether the output's modes stand in the train the last one first, so that cutting it in the middle
            leaves two trains over the rows of tall matrices.

    Returns:
        A float64 train over the input modes and the output modes, of rank k at most between the two.

    Example:
        >>> left, right = torch.randn(6, 2), torch.randn(2, 4)
        >>> train = factor_train(left, right, (2, 3), (2, 2))
        >>> train.ranks, torch.allclose(train.full().reshape(6, 4).float(), left @ right, atol=1e-6)
        ((1, 2, 2, 2, 1), True)
    """
    u, s, v = thin_svd(left, right)
    if mirrored:
        tensor = v.reshape(-1, *reversed(out_modes)).permute(0, *range(len(out_modes), 0, -1))
    else:
        tensor = v.reshape(-1, *out_modes)
    *before, bond = ttnet.tt_svd((u * s).reshape(*in_modes, -1)).cores
    before[-1] = torch.tensordot(before[-1], bond[:, :, 0], dims=1)
    bond, *after = ttnet.tt_svd(tensor).cores
    after[0] = torch.tensordot(bond[0], after[0], dims=1)
    return TensorTrain([*before, *after])


class _Trains:
    """The updates of an adapter as trains, over the modes that serve it best at a given error."""

    def __init__(self, factors: Factors, mirrored: bool, max_rank: int | None) -> None:
        self._max_rank = max_rank
        sizes = {size for left, right in factors.values() for size in (left.shape[0], right.shape[1])}
        self._exact = []
        for modes in _candidates(sizes):
            self._exact.append(
                {
                    name: factor_train(left, right, modes[left.shape[0]], modes[right.shape[1]][::-1], mirrored)
                    for name, (left, right) in factors.items()
                }
            )

    def rounded(self, eps: float) -> dict[str, TensorTrain]:
        """Round all updates to a relative error, over the modes with which they then have the fewest parameters."""
        bound = eps if eps >= 1 else max(eps - ROUNDING / 2, ROUNDING / 2)  # from 1 on, all ranks are 1
        choices = (
            {name: train.round(eps=bound, max_rank=self._max_rank) for name, train in trains.items()}
            for trains in self._exact
        )
        return min(choices, key=_count)


def _candidates(sizes: Iterable[int]) -> list[Modes]:
    """List the modes that are the best for trains of one rank, for ranks from 1 to so large that no mode is split."""
    largest = max(sizes)
    found: list[Modes] = []
    for exponent in range(largest.bit_length() + 1):
        modes = {size: choose_modes(size, size, rank=2**exponent)[0] for size in sizes}
        if modes not in found:
            found.append(modes)
    return found


def _count(trains: Mapping[str, TensorTrain]) -> int:
    return sum(num_parameters(train.shape, train.ranks) for train in trains.values())


def _within(trains: _Trains, budget: int) -> dict[str, TensorTrain]:
    """Find the smallest common error at which all trains together keep to a number of parameters, by bisection."""
    if _count(exact := trains.rounded(0.0)) <= budget:
        return exact
    best = trains.rounded(1.0)
    if _count(best) > budget:
        raise TTValueError(
            f"budget is {budget}, but the smallest trains, of rank 1, have {_count(best)} parameters together; give at "
            "least that."
        )
    low, high = math.log(ROUNDING), 0.0
    for _ in range(12):
        middle = (low + high) / 2
        choice = trains.rounded(math.exp(middle))
        if _count(choice) <= budget:
            best, high = choice, middle
        else:
            low = middle
    return best


def _store_tt_lora(
    factors: Factors, trains: Mapping[str, TensorTrain], kept: dict[str, Any]
) -> tuple[AdapterConfig, dict[str, FactorNetwork]]:
    modes, ranks = {}, {}
    for name, (left, right) in factors.items():
        rows, cols = left.shape[0], right.shape[1]
        cut = _cut(trains[name].shape, rows)
        modes[f"{rows}x{cols}"] = [list(trains[name].shape[:cut]), list(trains[name].shape[cut:])]
        ranks[exactly(name)] = {"tt_rank": list(trains[name].ranks[1:-1])}
    config = TTLoraConfig(alpha=1, modes=modes, rank_pattern=ranks, **kept)

    def fill(name: str, network: TTLoraNetwork) -> None:
        load_cores(list(network.delta.cores), trains[name].cores)

    return config, _networks(factors, config, TTLoraNetwork, fill)


def _store_loretta_rep(
    factors: Factors, trains: Mapping[str, TensorTrain], kept: dict[str, Any]
) -> tuple[AdapterConfig, dict[str, FactorNetwork]]:
    """Cut the trains in the middle: A is what lies left of the cut and B what lies right of it.

    The bond at the cut is the column of both. It needs no core of its own, and stands in the last core's mode.
    """
    sides, modes = {}, {}
    ranks: dict[str, Any] = {}
    scales: dict[str, float] = {}
    for name, (left, _) in factors.items():
        cut = _cut(trains[name].shape, left.shape[0])
        a = trains[name].cores[:cut]
        b = [core.permute(2, 1, 0) for core in reversed(trains[name].cores[cut:])]
        sides[name] = [*_with_column(a), *_with_column(b)]
        r = trains[name].ranks[cut]
        inner = [[core.shape[2] for core in side[:-1]] for side in (a, b)]
        ranks[exactly(name)], scales[exactly(name)] = {"r": r, "tt_rank": inner}, r
        for side, bonds in zip((a, b), inner, strict=True):
            rows = math.prod(core.shape[1] for core in side)
            joint = [core.shape[1] for core in _with_column(side)]
            modes[f"{rows}x{r}@{','.join(map(str, bonds))}"] = [joint, []]
    r = Counter(entry["r"] for entry in ranks.values()).most_common(1)[0][0]
    config = LorettaRepConfig(r=r, alpha=r, rank_pattern=ranks, alpha_pattern=scales, recorded_modes=modes, **kept)

    def fill(name: str, network: LorettaRepNetwork) -> None:
        load_cores([*network.A.cores, *network.B.cores], sides[name])

    return config, _networks(factors, config, LorettaRepNetwork, fill)


_STORES = {"tt_lora": _store_tt_lora, "loretta_rep": _store_loretta_rep}


def _with_column(cores: Iterable[Tensor]) -> list[Tensor]:
    *first, last = cores
    return [*first, last.reshape(last.shape[0], -1, 1)]


def _cut(modes: tuple[int, ...], rows: int) -> int:
    """Count the modes of the rows, of which there is at least one."""
    return next(k for k in range(1, len(modes)) if math.prod(modes[:k]) == rows)


def _kept(checkpoint: LoraCheckpoint, method: str) -> dict[str, Any]:
    """What the new config has in common with LoRA's."""
    old = checkpoint.config
    fields = (
        "task_type auto_mapping base_model_name_or_path revision exclude_modules layers_to_transform layers_pattern "
        "modules_to_save inference_mode"
    )
    return {
        **{field: getattr(old, field) for field in fields.split()},
        "target_modules": (None if old.target_parameters else old.target_modules) or sorted(checkpoint.factors),
        "bias": f"{method}_only" if old.bias == "lora_only" else old.bias,
        "dropout": old.lora_dropout,
        "id2label": checkpoint.classes.get("id2label"),
    }


def _networks(
    factors: Factors,
    config: AdapterConfig,
    network_cls: type[FactorNetwork],
    fill: Callable[[str, Any], None],
) -> dict[str, FactorNetwork]:
    networks = {}
    with torch.random.fork_rng(devices=[]):  # their random start is not used
        for name, (left, right) in factors.items():
            rows, cols = left.shape[0], right.shape[1]
            networks[name] = network_cls(rows, cols, rows, config.for_module(name))
            fill(name, networks[name])
    return networks


def _check_arguments(method: str, eps: float | None, max_rank: int | None, budget: int | None) -> None:
    if method not in METHODS:
        raise TTValueError(f"method is {method!r}; expected one of {', '.join(map(repr, METHODS))}.")
    check_eps(eps)
    for name, value in (("max_rank", max_rank), ("budget", budget)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TTTypeError(f"{name} is {value!r}; expected an integer of at least 1.")
        if value is not None and value < 1:
            raise TTValueError(f"{name} is {value}; expected an integer of at least 1.")
    if eps is not None and budget is not None:
        raise TTValueError(
            f"eps is {eps} and budget is {budget}; give one of the two, as the budget chooses the error."
        )
