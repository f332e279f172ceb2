"""Trains and TT-matrices as PyTorch's trees of tensors, whose leaves are the cores.

So `torch.func` (`vmap`, `grad`, `jacrev`, `functional_call`), `torch.export` and `tree_map` take them as arguments and
give them back. Importing `ttnet` registers them; torch hands that on to `optree`, if it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ttnet.trains.chain import CoreChain
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def _flatten(chain: CoreChain) -> tuple[list[Any], None]:
    return list(chain.cores), None


def _flatten_with_keys(chain: CoreChain) -> tuple[list[tuple[Any, Any]], None]:
    return [(pytree.SequenceKey(number), core) for number, core in enumerate(chain.cores)], None


def _unflatten(kind: type[CoreChain], leaves: Iterable[Any], context: None) -> CoreChain:
    # Not checked, since a tree may hold other things than cores: batches of them, gradients, dimensions, None.
    return kind.unchecked(leaves)


for _kind in (TensorTrain, TTMatrix):
    pytree.register_pytree_node(
        _kind,
        _flatten,
        partial(_unflatten, _kind),
        serialized_type_name=f"ttnet.{_kind.__name__}",
        flatten_with_keys_fn=_flatten_with_keys,
    )
# What `torch.load` may build without being told to trust the file, also under the names of earlier versions.
torch.serialization.add_safe_globals(
    [
        TensorTrain,
        TTMatrix,
        (TensorTrain, "ttnet.tensor_train.TensorTrain"),
        (TTMatrix, "ttnet.tt_matrix.TTMatrix"),
    ]
)
