import numpy as np
import opt_einsum
import pytest
import torch

from ttnet.contraction import contract, contract_chain, plan, plan_chain
from ttnet.errors import TTShapeError, TTTypeError, TTValueError

ones = torch.ones


class Unhashable:
    __hash__ = None

    def __call__(self, *network):
        return [(0, 1)]


def failing(*network):
    raise RuntimeError("no luck")


def three(**options):
    return plan("ij,jk,kl->il", (2, 3), (3, 3), (3, 2), **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plan("ij,jk->iz", (2, 3), (3, 4)), TTValueError, "index 'z' of the output is in none"),
        (lambda: plan(([(0, 1)], (2,)), (2, 3)), TTValueError, r"index 2 of the output .* \(0 1\)"),
        (lambda: plan("ij->ii", (2, 2)), TTValueError, "index 'i' occurs 2 times in the output"),
        (lambda: plan("...ij,jk", (2, 3), (3, 4)), TTValueError, "ellipsis; name every index"),
        (lambda: plan("i1,1k", (2, 3), (3, 4)), TTValueError, "has '1' for an index"),
        (lambda: plan("ij->i->j", (2, 3)), TTValueError, "has '-' for an index"),
        (lambda: plan(([], ())), TTValueError, "no operands"),
        (lambda: plan(3, (2,)), TTTypeError, "equation is 3; expected a string"),
        (lambda: plan(([("i",)], ()), (2,)), TTTypeError, "pair of integer terms"),
        (lambda: plan("ij", (2, 3), optimize="best"), TTValueError, "optimize is 'best'; expected one of auto, .*dp"),
        (lambda: three(optimize=3), TTTypeError, "optimize is 3; expected the name of a path finder, a path such as"),
        (lambda: three(optimize=[0, 1]), TTTypeError, r"optimize is \[0, 1\]; expected the name"),
        (lambda: three(optimize=[(0, 1.5), (0, 1)]), TTTypeError, "expected the name of a path finder, a path such as"),
        (lambda: three(optimize=[(0, 1)]), TTValueError, "optimize has length 1; expected 2, one step less than"),
        (
            lambda: three(optimize=[(0, 1), (0, 2)]),
            TTValueError,
            r"step 1 of optimize is \(0, 2\).* 2 .*remain, 0 to 1",
        ),
        (
            lambda: three(optimize=[(1, 1), (0, 1)]),
            TTValueError,
            r"step 0 of optimize is \(1, 1\); expected two different",
        ),
        (lambda: three(optimize=[(0, 1, 2)] * 2), TTValueError, r"step 0 of optimize is \(0, 1, 2\); expected two"),
        (lambda: three(optimize=[(0, -1)] * 2), TTValueError, r"step 0 of optimize is \(0, -1\)"),
        (lambda: three(optimize=lambda *_: [(0, 1)]), TTValueError, "the path from optimize has length 1; expected 2"),
        (lambda: three(optimize=lambda *_: None), TTTypeError, "the path from optimize is None"),
        (lambda: three(optimize=failing), TTValueError, "optimize, a function, found no path: no luck"),
        (lambda: three(optimize=Unhashable()), TTTypeError, "optimize is a Unhashable, which cannot be hashed"),
        (
            lambda: three(optimize=opt_einsum.DynamicProgramming(), memory_limit=5),
            TTValueError,
            "optimize, a DynamicProgramming, found no path",
        ),
        (
            lambda: three(optimize=[(0, 1)] * 2, memory_limit=5),
            TTValueError,
            "memory_limit is 5 entries.* of 6 at best",
        ),
        (lambda: three(memory_limit=0), TTValueError, "memory_limit is 0; expected a number of entries >= 1, or None"),
        (
            lambda: three(memory_limit=True),
            TTTypeError,
            "memory_limit is True; expected a number of entries, an int >= 1",
        ),
        (
            lambda: three(memory_limit=1e6),
            TTTypeError,
            "memory_limit is 1000000.0; expected a number of entries, an int",
        ),
        (
            lambda: contract("i,i", ones(2), ones(2), memory_limit="1"),
            TTTypeError,
            "memory_limit is '1'; expected a num",
        ),
        (
            lambda: contract("i,i", ones(2, dtype=torch.bool), ones(2, dtype=torch.bool)),
            TTTypeError,
            "dtype torch.bool, of which torch makes no matrix products on cpu; convert",
        ),
        (
            lambda: contract("i,i", ones(2), ones(2, device="meta")),
            TTValueError,
            "operand 1 is on meta but operand 0 is on cpu; move them to one device",
        ),
        (lambda: plan("ij,jk", (2, 3)), TTShapeError, "1 shapes were given; expected 2, one for each operand of ij,jk"),
        (lambda: plan("ij,jk", (2, 3), (3, 4, 5)), TTShapeError, r"operand 1 has shape \(3, 4, 5\).*expected 2.*'jk'"),
        (
            lambda: plan("ij,jk,kl", (2, 3), (3, 4), (5, 6)),
            TTShapeError,
            "index 'k' has size 4 in operand 1 and size 5 in operand 2",
        ),
        (lambda: plan("ii", (1, 3)), TTShapeError, "index 'i' has size 1 in operand 0 and size 3 in operand 0"),
        (lambda: plan("ij", ones(2, 3)), TTTypeError, "shape 0 is a Tensor; expected a sequence of integers"),
        (lambda: plan("ij", (2, 3.0)), TTTypeError, "shape 0 is a tuple; expected a sequence of integers"),
        (lambda: plan("ij", (2, -3)), TTShapeError, r"shape 0 is \(2, -3\); expected sizes of at least 0"),
        (lambda: contract("ij,jk", ones(2, 3), np.ones((3, 4))), TTTypeError, "operand 1 is a ndarray"),
        (lambda: plan("ij,jk", (2, 3), (3, 4))(ones(2, 3), 1.0), TTTypeError, "operand 1 is a float"),
        (lambda: plan("ij,jk", (2, 3), (3, 4))(ones(2, 3)), TTShapeError, "1 tensors were given; expected 2"),
        (
            lambda: plan("ij,jk", (2, 3), (3, 4))(ones(2, 3), ones(3, 5)),
            TTShapeError,
            r"operand 1 has shape \(3, 5\); expected \(3, 4\)",
        ),
        (lambda: plan_chain([]), TTShapeError, "there are no cores"),
        (lambda: plan_chain([(1, 2)]), TTShapeError, r"core 0 has shape \(1, 2\); expected three sizes"),
        (
            lambda: contract_chain([ones(1, 2, 3), ones(4, 2, 1)]),
            TTShapeError,
            "core 0 ends with rank 3 but core 1 begins with rank 4",
        ),
        (lambda: contract_chain([[1.0]]), TTTypeError, "operand 0 is a list"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
