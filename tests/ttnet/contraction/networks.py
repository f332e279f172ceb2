"""Networks to contract, random and regular, and the dense oracle they are compared with."""

import itertools

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def tensors_of(shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]


def in_numpy(inputs, output, tensors):
    """The contraction by numpy in double precision, in one pass over all indices."""
    number = {index: k for k, index in enumerate(dict.fromkeys(i for term in inputs for i in term))}
    wide = [t.to(torch.complex128 if t.is_complex() else torch.float64).numpy() for t in tensors]
    pairs = [x for t, term in zip(wide, inputs, strict=True) for x in (t, [number[i] for i in term])]
    return np.einsum(*pairs, [number[i] for i in output])


@st.composite
def networks(draw):
    """Random networks: hyper-indices, diagonals, lone indices, scalars, size 1 and size 0 all occur."""
    pool = draw(st.lists(st.integers(-3, 2000), min_size=1, max_size=6, unique=True))
    sizes = {index: draw(st.sampled_from([0, 1, 1, 2, 2, 3, 3, 4])) for index in pool}
    inputs = draw(st.lists(st.lists(st.sampled_from(pool), max_size=4), min_size=1, max_size=5))
    used = sorted({index for term in inputs for index in term})
    output = draw(st.lists(st.sampled_from(used), unique=True)) if used else []
    return inputs, output, [tuple(sizes[index] for index in term) for term in inputs]


def binary_tree(size):
    """Tensor k is joined to its children 2k + 1 and 2k + 2."""
    return [(*([k] if k else []), *(child for child in (2 * k + 1, 2 * k + 2) if child < size)) for k in range(size)]


def grid(side):
    """Tensors on a square, joined to their neighbours."""
    bonds = {}
    cells = list(itertools.product(range(side), repeat=2))
    for i, j in cells:
        for neighbour in ((i, j + 1), (i + 1, j)):
            if max(neighbour) < side:
                bonds[frozenset([(i, j), neighbour])] = len(bonds)
    return [tuple(bond for ends, bond in bonds.items() if cell in ends) for cell in cells]
