"""quimb: a train is a matrix product state (MPS), a TT-matrix a matrix product operator (MPO).

quimb names the axes of its arrays: neighbours share the name of their bond, and a site has a name for its mode, an
operator's site one for its row and one for its column. The order of the axes means nothing, and is not relied upon.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError, import_extra
from ttnet.interop._arrays import check_has_modes, copy_array, to_numpy
from ttnet.numerics.scales import count_nonfinite
from ttnet.numerics.train_scales import join_scale, split_scales
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def from_quimb(network: Any) -> TensorTrain | TTMatrix:
    """Make a train of a matrix product state of quimb's, or a TT-matrix of an operator; quimb is not imported.

    Args:
        network: A `MatrixProductState` or `MatrixProductOperator` with open ends, or another network of quimb's with
            one tensor a site and bonds between neighbours alone. Its `exponent` goes into the cores.

    Returns:
        A `TensorTrain`, or a `TTMatrix` whose rows are quimb's upper indices. Arrays that are torch tensors stay in
        the graph of gradients, others are copied; dtypes that differ are promoted.

    Raises:
        TTTypeError: If `network` is of another type, or an array of a dtype that trains do not have.
        TTValueError: If it is cyclic, or its exponent takes it out of its dtype's range.
        TTShapeError: If a site has several tensors, or other indices than those.

    Example:
        >>> import quimb.tensor as qtn  # doctest: +SKIP
        >>> from_quimb(qtn.MPS_rand_state(3, bond_dim=2))  # doctest: +SKIP
        TensorTrain([2]-2-[2]-2-[2], float64)
    """
    namers = _mode_namers(network)
    if getattr(network, "cyclic", False):
        raise TTValueError("network is cyclic: a bond joins its last site to the first; expected open ends.")
    sites = list(network.sites)
    tensors = [network[site] for site in sites]
    for site, tensor in zip(sites, tensors, strict=True):
        if not hasattr(tensor, "inds"):
            raise TTShapeError(f"network has several tensors at site {site}; contract them to one first.")
    # Neighbours that share no index have a bond of rank 1, those that share several one of the product of their sizes.
    bonds = [tuple(index for index in a.inds if index in b.inds) for a, b in pairwise(tensors)]
    cores = [
        _core(site, tensor, [left, *((namer(site),) for namer in namers), right])
        for site, tensor, left, right in zip(sites, tensors, [(), *bonds], [*bonds, ()], strict=True)
    ]
    dtype = reduce(torch.promote_types, [core.dtype for core in cores])
    cores = [core.to(dtype) for core in cores]
    if exponent := float(getattr(network, "exponent", 0)):
        cores = _times_power_of_ten(cores, exponent)
    return (TTMatrix if len(namers) == 2 else TensorTrain)(cores)


def to_quimb(tt: TensorTrain | TTMatrix) -> Any:
    """Give a train to quimb as a matrix product state, or a TT-matrix as an operator.

    Args:
        tt: A train of order 1 or more, or a TT-matrix, on any device.

    Returns:
        A `MatrixProductState` or a `MatrixProductOperator` whose upper indices are the rows, of numpy arrays without
        gradients. `apply_to_arrays(torch.as_tensor)` makes them torch tensors.

    Raises:
        TTTypeError: If `tt` is of another type, or a train of order 0, which quimb does not have.
        MissingExtraError: If quimb is not installed.

    Example:
        >>> import ttnet
        >>> to_quimb(ttnet.ones((2, 3))).norm()  # doctest: +SKIP
        2.449489742783178
    """
    check_has_modes(tt, "quimb")
    networks = import_extra("quimb.tensor", extra="quimb")
    arrays = [np.moveaxis(core, -1, 1) for core in to_numpy(tt)]  # (r, r', n), quimb's own order
    arrays[0] = arrays[0][0]  # no outer bonds
    arrays[-1] = arrays[-1].squeeze(axis=1 if len(arrays) > 1 else 0)
    return (networks.MatrixProductOperator if isinstance(tt, TTMatrix) else networks.MatrixProductState)(arrays)


def _mode_namers(network: Any) -> list[Callable[[Any], str]]:
    """Give the functions from a site to the names of its modes."""
    for names in (("site_ind",), ("upper_ind", "lower_ind")):
        if all(hasattr(network, name) for name in (*names, "sites")):
            return [getattr(network, name) for name in names]
    raise TTTypeError(
        f"network is a {type(network).__name__}; expected a MatrixProductState or a MatrixProductOperator of quimb."
    )


def _core(
    site: Any,
    tensor: Any,
    axes: list[tuple[str, ...]],  # the indices to merge into each axis of the core
) -> Tensor:  # (r, *modes, r')
    indices = [index for group in axes for index in group]
    if sorted(indices) != sorted(tensor.inds):
        raise TTShapeError(
            f"the tensor at site {site} has the indices {', '.join(tensor.inds)}; expected the site's own, "
            f"{' and '.join(index for group in axes[1:-1] for index in group)}, and bonds to its neighbours alone."
        )
    data = tensor.data
    if not isinstance(data, Tensor):
        data = copy_array(np.asanyarray(data), f"the array at site {site}")
    if not (data.is_floating_point() or data.is_complex()):
        raise TTTypeError(
            f"the array at site {site} has dtype {data.dtype}; expected a floating or complex dtype: convert it first."
        )
    sizes = dict(zip(tensor.inds, data.shape, strict=True))
    data = data.permute([tensor.inds.index(index) for index in indices])
    return data.reshape([math.prod(sizes[index] for index in group) for group in axes])


def _times_power_of_ten(
    cores: list[Tensor],  # each (r, ..., r')
    exponent: float,
) -> list[Tensor]:
    """Multiply a train by 10**exponent, which itself may be no number of any dtype."""
    dtype = cores[0].dtype
    power = exponent * math.log2(10)
    scaled, own = split_scales(cores, dtype)
    scaled[-1] = scaled[-1] * 2.0 ** (power % 1)
    result = join_scale(scaled, own + math.floor(power), dtype)
    if any(count_nonfinite(core) for core in result):
        raise TTValueError(f"network has the exponent {exponent}; its numbers leave the range of {dtype}.")
    return result
