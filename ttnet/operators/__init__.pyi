from .differences import convection, gradient, laplace, shift
from .models import Reaction, heisenberg, ising, oscillators, reaction_network, spin_matrices, xx
from .sums import diagonal, exponentials, local_sum, product_sum

__all__ = [
    "Reaction",
    "convection",
    "diagonal",
    "exponentials",
    "gradient",
    "heisenberg",
    "ising",
    "laplace",
    "local_sum",
    "oscillators",
    "product_sum",
    "reaction_network",
    "shift",
    "spin_matrices",
    "xx",
]
