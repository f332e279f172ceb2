"""Products of the rows of a batch, against the same one after the other."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ttnet_llm.matrices.by_row import add_thin

sizes = st.integers(1, 5)


@given(sizes, sizes, sizes, sizes, sizes, st.floats(-2, 2), st.booleans())
def test_rows_have_their_own_products(
    n: int, tokens: int, inputs: int, k: int, outputs: int, scale: float, shifted: bool
) -> None:
    torch.manual_seed(0)
    shapes = (n, tokens, outputs), (n, tokens, inputs), (n, inputs, k), (n, k, outputs)
    to, x, left, right = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    shift = torch.randn(inputs, dtype=torch.float64) if shifted else None
    found = add_thin(to, x, left, right, scale, shift)
    for row in range(n):
        moved = x[row] - shift if shift is not None else x[row]
        torch.testing.assert_close(found[row], to[row] + scale * moved @ left[row] @ right[row])
