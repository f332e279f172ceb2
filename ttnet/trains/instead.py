"""The calls to take in the place of what tensors and arrays have, and trains and TT-matrices have not.

Two tables for each: functions of numpy are refused by the names in the first, and take the dense array by those in the
second, `..._BESIDES`.
"""

from __future__ import annotations

_FUNCTIONS = (
    "abs ceil cos cosh erf exp expm1 floor imag log log10 log1p log2 real reciprocal relu rsqrt sigmoid sign sin sinh "
    "sqrt tan tanh"
)
_MORE_FUNCTIONS = (
    "acos acosh angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh deg2rad digamma erfc erfinv "
    "exp2 frac isfinite isinf isnan lgamma logit nan_to_num rad2deg sgn sinc trunc"
)


def _named(names: str, call: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), call)


OF_BOTH = _named("allclose equal isclose", "ttnet.allclose(a, b)") | {
    "astype": "to(dtype)",
    "copy": "clone()",
    "rank": "ranks",
    "size": "shape",
    "tolist": "full().tolist()",
    "type": "to(dtype)",
}
OF_TRAINS = (
    OF_BOTH
    | {name: f"ttnet.apply(torch.{name}, train)" for name in _FUNCTIONS.split()}
    | {name: f"ttnet.solvers.optimize(train, '{name[-3:]}')" for name in ("max", "min", "amax", "amin")}
    | {name: f"ttnet.solvers.optimize(train, '{name[-3:]}')" for name in ("argmax", "argmin")}
    | _named("add sub subtract", "a + b or a - b")
    | _named("multiply div divide", "a * b, or train / number")
    | _named("neg negative", "-train")
    | _named("movedim permute_dims", "permute(dims)")
    | _named("maximum minimum", "ttnet.apply(torch.maximum, a, b), or ttnet.apply(lambda x: x.clamp(min=0), train)")
    | {
        "clamp": "ttnet.apply(lambda x: x.clamp(0, 1), train)",
        "conjugate": "conj()",
        "contiguous": "the train itself: its cores are what is stored",
        "dim": "ndim",
        "flatten": "reshape((-1,))",
        "pow": "train**power",
        "prod": "ttnet.apply(torch.log, train), summed",
        "requires_grad": "train.cores, each of which has its own",
        "requires_grad_": "TensorTrain(core.requires_grad_() for core in train.cores)",
        "square": "train**2",
        "squeeze": "train[:, 0], with the index 0 for a mode of size 1",
        "svd": "ttnet.singular_values(train)",
        "swapaxes": "transpose(dim0, dim1)",
        "t": "T",
        "unsqueeze": "train[None]",
        "view": "reshape(shape)",
        "/": "ttnet.apply(torch.div, a, b) for quotients, entry by entry",
        "//": "ttnet.apply(lambda x: x // number, train)",
        "%": "ttnet.apply(lambda x: x % number, train)",
        "**": "ttnet.apply(lambda x: x**power, train) for powers below 0 or between whole numbers",
        "@": "a.dot(b) for the sum of all products, or make one of the two a ttnet.TTMatrix, which multiplies trains",
        "<": "(a - b).norm() or ttnet.solvers.optimize(a - b, 'max') to compare by",
    }
)
OF_MATRICES = OF_BOTH | {
    "det": "ttnet.solvers.eigsh(matrix, k=...)",
    "eigh": "ttnet.solvers.eigsh(matrix, k=...)",
    "inv": "ttnet.solvers.inverse(matrix)",
    "inverse": "ttnet.solvers.inverse(matrix)",
    "reshape": "to_train().reshape(shape)",
    "solve": "ttnet.solvers.solve(matrix, b)",
    "sum": "to_train().sum()",
    "mean": "to_train().mean()",
    "std": "to_train().std()",
    "var": "to_train().var()",
    "abs": "to_train(), of which ttnet.apply takes any function",
    "+": "matrix + c * ttnet.eye(matrix.row_shape) for the diagonal, or to_train() + c for every entry",
    "/": "ttnet.solvers.inverse(matrix), or to_train() for quotients entry by entry",
    "//": "to_train(), of which ttnet.apply takes any function",
    "%": "to_train(), of which ttnet.apply takes any function",
    "**": "matrix @ matrix for powers of the operator, matrix * matrix for those of its entries",
    "<": "(a - b).norm() to compare by",
}
BOTH_BESIDES = (
    _named("eq ne", "ttnet.allclose(a, b)")
    | _named("dense to_dense todense torch", "full()")
    | _named("toarray to_numpy", "numpy()")
    | _named("cfloat", "to(torch.complex64)")
    | _named("cdouble", "to(torch.complex128)")
    | _named("type_as", "to(dtype)")
    | _named("long int short bool", "full(), as trains hold floating and complex numbers alone")
    | _named("is_complex is_floating_point", "dtype.is_complex or dtype.is_floating_point")
    | _named("is_cuda get_device", "device.type")
    | _named("nelement", "numel")
    | _named("nbytes element_size itemsize", "num_parameters * dtype.itemsize, the bytes of all cores")
    | _named("stride storage untyped_storage data_ptr is_contiguous layout", "cores, each of which has its own")
    | _named("grad grad_fn is_leaf register_hook retain_grad", "cores, each of which has its own")
    | _named("backward", "norm().backward(), or that of another number")
    | _named("data", "detach()")
    | _named("einsum tensordot", "a.dot(b) or ttnet.outer(a, b), or ttnet.contract, which takes their cores")
    | _named("inner vdot", "dot(other)")
    | _named("kron", "ttnet.kron(a, b)")
    | _named("all any argsort argwhere count_nonzero cummax cummin cumprod cumsum", "full(), if it is small")
    | _named("histc kthvalue logsumexp median mode msort nonzero quantile", "full(), if it is small")
    | _named("softmax sort topk tril triu unique where masked_fill", "full(), if it is small")
    | _named("gather index_select masked_select take", "ttnet.evaluate(train, indices) for entries of many places")
    | _named("lerp addcmul addcdiv mse_loss", "+, - and * between trains, and norm()")
)
TRAINS_BESIDES = (
    BOTH_BESIDES
    | {name: f"ttnet.apply(torch.{name}, train)" for name in _MORE_FUNCTIONS.split()}
    | _named("clip", "ttnet.apply(lambda x: x.clamp(0, 1), train)")
    | _named("fmax fmin", "ttnet.apply(torch.maximum, a, b), or ttnet.apply(lambda x: x.clamp(min=0), train)")
    | _named("gt ge lt le", "(a - b).norm() or ttnet.solvers.optimize(a - b, 'max') to compare by")
    | _named("ravel", "reshape((-1,))")
    | _named("unflatten", "reshape(shape)")
    | _named("moveaxis rollaxis", "permute(dims)")
    | _named("swapdims", "transpose(dim0, dim1)")
    | _named("expand expand_as broadcast_to", "ttnet.outer(ttnet.ones(sizes), train), as nothing is broadcast")
    | _named("tile repeat", "ttnet.kron(ttnet.ones(counts), train), with one count for each mode")
    | _named("repeat_interleave", "ttnet.kron(train, ttnet.ones(counts)), with one count for each mode")
    | _named("flip fliplr flipud", "train[::-1], with a negative step for a mode that is to turn round")
    | _named("roll", "ttnet.cat([train[-k:], train[:-k]])")
    | _named("diff", "train[1:] - train[:-1]")
    | _named("split chunk unbind narrow select tensor_split", "slices, as train[:2] and train[2:]")
    | _named("zeros_like new_zeros", "0 * train, or ttnet.zeros(train.shape)")
    | _named("ones_like new_ones full_like", "train**0, or ttnet.ones(train.shape)")
    | _named("rand_like randn_like empty_like", "ttnet.random(train.shape, rank)")
    | _named("apply map", "ttnet.apply(function, train)")
    | _named("order", "ndim")
    | _named("outer", "ttnet.outer(a, b)")
    | _named("mT mH H adjoint", "T, which reverses all modes, or conj()")
    | _named("matmul mm mv bmm multi_dot linear", "a.dot(b), or make one of the two a ttnet.TTMatrix")
    | _named("diag", "ttnet.diag(train)")
    | _named("diagonal trace", "a ttnet.TTMatrix of it, of which ttnet.diag(matrix) and matrix.trace() are those")
    | _named("det inv inverse eigh solve", "a ttnet.TTMatrix, which ttnet.solvers knows")
)
MATRICES_BESIDES = (
    BOTH_BESIDES
    | _named(f"{_FUNCTIONS} {_MORE_FUNCTIONS}", "to_train(), of which ttnet.apply takes any function")
    | _named("clamp clip maximum minimum square", "to_train(), of which ttnet.apply takes any function")
    | _named("max min amax amin argmax argmin", "to_train(), of which ttnet.solvers.optimize finds the extremes")
    | _named("add sub subtract", "a + b or a - b")
    | _named("multiply div divide", "a * b, or matrix / number")
    | _named("neg negative", "-matrix")
    | _named("pow matrix_power", "matrix @ matrix for powers of the operator, matrix * matrix for those of its entries")
    | _named("gt ge lt le", "(a - b).norm() to compare by")
    | _named("conjugate", "conj()")
    | _named("dim", "ndim")
    | _named("order", "len(matrix.cores)")
    | _named("contiguous", "the TT-matrix itself: its cores are what is stored")
    | _named("requires_grad", "cores, each of which has its own")
    | _named("requires_grad_", "TTMatrix(core.requires_grad_() for core in matrix.cores)")
    | _named("t mT transpose swapaxes swapdims permute movedim", "T")
    | _named("mH adjoint", "H")
    | _named("flatten ravel view", "to_train().reshape(shape)")
    | _named("mm mv bmm linear multi_dot", "matrix @ other")
    | _named("outer", "ttnet.kron(a, b)")
    | _named("diag diagonal", "ttnet.diag(matrix)")
    | _named("cat concat concatenate stack", "to_train() of each")
    | _named("eigvalsh svd svdvals", "ttnet.solvers.eigsh(matrix, k=...), or ttnet.singular_values of its train")
    | _named("zeros_like", "0 * matrix")
)
