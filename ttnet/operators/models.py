"""Models of physics and chemistry: chains of spins, coupled oscillators, networks of reactions."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.operators.sums import is_finite_number, local_sum, product_sum
from ttnet.trains.chain import check_shape
from ttnet.trains.tt_matrix import TTMatrix


def spin_matrices(spin: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """Give the matrices of a spin in the basis of Sz, its largest value first.

    Args:
        spin: 1/2, 1, 3/2, ...

    Returns:
        Sz, S+ and S-, of shape (2 spin + 1, 2 spin + 1) and float64; Sx is half the sum of the last two, and Sy their
        half difference over i.

    Raises:
        TTValueError: If twice the spin is not a whole number of at least 1.

    Example:
        >>> spin_matrices()[1]
        tensor([[0., 1.],
                [0., 0.]], dtype=torch.float64)
    """
    if not is_finite_number(spin) or spin <= 0 or 2 * spin != int(2 * spin):
        raise TTValueError(f"spin is {spin!r}; expected 1/2, 1, 3/2, ...")
    values = spin - torch.arange(int(2 * spin) + 1, dtype=torch.float64)
    raising = (spin * (spin + 1) - values[1:] * (values[1:] + 1)).sqrt().diag(1)
    return values.diag(), raising, raising.mT.contiguous()


def heisenberg(
    sites: int,
    *,
    spin: float = 0.5,
    coupling: float = 1.0,
    anisotropy: float = 1.0,
    field: float = 0.0,
    periodic: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give the Heisenberg chain, `coupling * sum of (Sx Sx + Sy Sy + anisotropy Sz Sz) - field * sum of Sz`.

    It is real and of ranks 5 (8 if periodic). Source: Schollwöck 2011, "The density-matrix renormalization group in
    the age of matrix product states", section 6.1.

    Args:
        sites: The number of spins, at least 1.
        spin: 1/2, 1, 3/2, ...
        coupling: J, of neighbours; positive for an antiferromagnet.
        anisotropy: Of the XXZ chain; 1 for S.S.
        field: Along z.
        periodic: Whether the last spin and the first are neighbours.
        dtype: A floating or complex dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTValueError: If there is no such spin, there are no sites, or a number is not finite.

    Example:
        >>> h = heisenberg(2)
        >>> torch.linalg.eigvalsh(h.full())
        tensor([-0.7500,  0.2500,  0.2500,  0.2500], dtype=torch.float64)
        >>> heisenberg(100).ranks[50]
        5
    """
    _check_numbers(coupling=coupling, anisotropy=anisotropy, field=field)
    z, up, down = spin_matrices(spin)
    pairs = [(coupling / 2 * up, down), (coupling / 2 * down, up), (coupling * anisotropy * z, z)]
    return local_sum(sites, single=-field * z, pairs=pairs, periodic=periodic, dtype=dtype, device=device)


def xx(
    sites: int,
    *,
    spin: float = 0.5,
    coupling: float = 1.0,
    field: float = 0.0,
    periodic: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give the XX chain, `coupling * sum of (Sx Sx + Sy Sy) - field * sum of Sz`, of ranks 4 (6 if periodic).

    Args:
        sites: The number of spins, at least 1.
        spin: 1/2, 1, 3/2, ...
        coupling: J, of neighbours.
        field: Along z.
        periodic: Whether the last spin and the first are neighbours.
        dtype: A floating or complex dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTValueError: If there is no such spin, there are no sites, or a number is not finite.

    Example:
        >>> torch.linalg.eigvalsh(xx(2).full())
        tensor([-0.5000,  0.0000,  0.0000,  0.5000], dtype=torch.float64)
    """
    return heisenberg(
        sites, spin=spin, coupling=coupling, anisotropy=0.0, field=field, periodic=periodic, dtype=dtype, device=device
    )


def ising(
    sites: int,
    *,
    spin: float = 0.5,
    coupling: float = 1.0,
    field: float = 1.0,
    decay: Sequence[tuple[float, float]] | None = None,
    periodic: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give the Ising chain in a transverse field, `-coupling * sum of Z Z - field * sum of X`.

    Z and X are Sz and Sx over the spin: Pauli's matrices for a spin of 1/2. A chain of these is critical where field
    and coupling are equal. Ranks are 3 (4 if periodic), and one more for each exponential of a long range after the
    first. Source: Pfeuty 1970, "The one-dimensional Ising model with a transverse field".

    Args:
        sites: The number of spins, at least 1.
        spin: 1/2, 1, 3/2, ...
        coupling: J, of neighbours; positive for a ferromagnet.
        field: h, along x.
        decay: Pairs (c, b) for a long range, `sum of c * b**(r - 1)` at distance r, as for `local_sum`.
        periodic: Whether the last spin and the first are neighbours.
        dtype: A floating or complex dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTValueError: If there is no such spin, there are no sites, or a number is not finite.

    Example:
        >>> ising(2, field=0.0).full().diag()
        tensor([-1.,  1.,  1., -1.], dtype=torch.float64)
    """
    _check_numbers(coupling=coupling, field=field)
    z, up, down = spin_matrices(spin)
    pairs = [(-coupling / spin**2 * z, z)]
    single = -field / (2 * spin) * (up + down)
    return local_sum(sites, single=single, pairs=pairs, decay=decay, periodic=periodic, dtype=dtype, device=device)


def oscillators(
    sites: int,
    levels: int,
    *,
    frequency: float = 1.0,
    coupling: float = 0.0,
    periodic: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give a chain of harmonic oscillators, `frequency * sum of (n + 1/2) + coupling * sum of x x` of neighbours.

    Each is cut off after its lowest levels, in the basis of these; x is `(a + a^H) / sqrt(2)`. Ranks are 3, or 2
    without a coupling.

    Args:
        sites: The number of oscillators, at least 1.
        levels: How many levels each of them has, at least 1.
        frequency: Of each oscillator.
        coupling: Of neighbours.
        periodic: Whether the last and the first are neighbours.
        dtype: A floating or complex dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTValueError: If there are no sites or levels, or a number is not finite.

    Example:
        >>> oscillators(2, 3).full().diag()
        tensor([1., 2., 3., 2., 3., 4., 3., 4., 5.], dtype=torch.float64)
    """
    if isinstance(levels, bool) or not isinstance(levels, int):
        raise TTTypeError(f"levels is {levels!r}; expected an int >= 1.")
    if levels < 1:
        raise TTValueError(f"levels is {levels}; expected an int >= 1.")
    _check_numbers(frequency=frequency, coupling=coupling)
    counts = torch.arange(levels, dtype=torch.float64)
    x = counts[1:].sqrt().diag(1) / math.sqrt(2)
    x = x + x.mT
    single = (frequency * (counts + 0.5)).diag()
    return local_sum(sites, single=single, pairs=[(coupling * x, x)], periodic=periodic, dtype=dtype, device=device)


def _check_numbers(**values: object) -> None:
    for name, value in values.items():
        if not is_finite_number(value):
            raise TTValueError(f"{name} is {value!r}; expected a finite real number.")


@dataclass(frozen=True)
class Reaction:
    """A reaction: what it changes, and how often it happens, as a product of functions of single species.

    Attributes:
        change: By how much it changes the count of each species that it changes.
        rate: A factor of how often it happens, at least 0.
        factors: For each species that matters, a function of a float64 tensor of counts.

    Example:
        >>> decay = Reaction.mass_action({0: 1}, {}, rate=0.5)
        >>> decay.change, decay.factors[0](torch.arange(3.0))
        ({0: -1}, tensor([0., 1., 2.]))
    """

    change: Mapping[int, int]
    rate: float = 1.0
    factors: Mapping[int, Callable[[Tensor], Tensor]] = field(default_factory=dict)

    @classmethod
    def mass_action(cls, reactants: Mapping[int, int], products: Mapping[int, int], *, rate: float = 1.0) -> Reaction:
        """Give a reaction that is as frequent as its reactants meet.

        Args:
            reactants: How many of each species it takes.
            products: How many of each species it makes.
            rate: Of one set of reactants.

        Returns:
            The reaction, with `n (n - 1) ... (n - m + 1) / m!` for each species of which it takes m.

        Example:
            >>> Reaction.mass_action({0: 2}, {1: 1}).change
            {0: -2, 1: 1}
        """
        change = {k: products.get(k, 0) - reactants.get(k, 0) for k in {**reactants, **products}}

        def combinations(taken: int) -> Callable[[Tensor], Tensor]:
            def count(n: Tensor) -> Tensor:
                result = torch.ones_like(n)
                for i in range(taken):
                    result = result * (n - i) / (i + 1)
                return result

            return count

        return cls(change, rate, {k: combinations(taken) for k, taken in reactants.items()})


def reaction_network(
    shape: Sequence[int],
    reactions: Sequence[Reaction],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give the generator A of the chemical master equation, `dp/dt = A p`, of ranks of at most twice the reactions.

    Species k has counts of 0 to `shape[k] - 1`. Reactions that would leave this box do not happen, so the columns add
    up to zero and probability is kept; make the box large enough for that not to matter. Source: Kazeev et al. 2014,
    "Direct solution of the chemical master equation using quantized tensor trains".

    Args:
        shape: One more than the largest count of each species.
        reactions: At least one.
        dtype: A floating dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If an argument is of the wrong type, or a function does not give one value per count.
        TTShapeError: If there are no species.
        TTValueError: If there are no reactions, there is no such species, or a value is negative, NaN or infinite.

    Example:
        >>> birth, death = Reaction({0: 1}, 2.0), Reaction.mass_action({0: 1}, {})
        >>> reaction_network((3,), [birth, death]).full()
        tensor([[-2.,  1.,  0.],
                [ 2., -3.,  2.],
                [ 0.,  2., -2.]], dtype=torch.float64)
    """
    sizes = check_shape(shape, "shape")
    if not sizes:
        raise TTShapeError("shape is (); expected at least one species.")
    if not reactions:
        raise TTValueError("reactions is empty; expected at least one Reaction.")
    terms = []
    for index, reaction in enumerate(reactions):
        name = f"reactions[{index}]"
        if not isinstance(reaction, Reaction):
            raise TTTypeError(f"{name} is a {type(reaction).__name__}; expected a Reaction.")
        if not is_finite_number(reaction.rate) or reaction.rate < 0:
            raise TTValueError(f"{name}.rate is {reaction.rate!r}; expected a finite number >= 0.")
        for k in {*reaction.change, *reaction.factors}:
            if isinstance(k, bool) or not isinstance(k, numbers.Integral):
                raise TTTypeError(f"{name} names species {k!r}; expected ints from 0.")
            step = reaction.change.get(k, 0)
            if isinstance(step, bool) or not isinstance(step, numbers.Integral):
                raise TTTypeError(f"{name}.change[{k}] is {step!r}; expected an int.")
            if not 0 <= k < len(sizes):
                raise TTValueError(f"{name} names species {k}; expected 0 to {len(sizes) - 1}.")
        happens, arrives = {}, {}
        for k in sorted({*reaction.change, *reaction.factors}):
            weights, step = _propensities(reaction, k, sizes[k], name), reaction.change.get(k, 0)
            counts = torch.arange(sizes[k])
            inside = (counts + step >= 0) & (counts + step < sizes[k])
            weights = weights * inside
            happens[k] = weights.diag()
            arrives[k] = torch.zeros_like(happens[k])
            arrives[k][(counts + step)[inside], counts[inside]] = weights[inside]
        first = next(iter(happens), 0)
        unit = torch.eye(sizes[first], dtype=torch.float64)
        terms.append({**arrives, first: reaction.rate * arrives.get(first, unit)})
        terms.append({**happens, first: -reaction.rate * happens.get(first, unit)})
    return product_sum(sizes, terms, dtype=dtype, device=device)


def _propensities(reaction: Reaction, k: int, size: int, name: str) -> Tensor:
    """Give the factor of one species at each of its counts."""
    counts = torch.arange(size, dtype=torch.float64)
    if k not in reaction.factors:
        return torch.ones_like(counts)
    values = reaction.factors[k](counts)
    if not isinstance(values, Tensor) or values.shape != counts.shape:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise TTTypeError(f"{name}.factors[{k}] gives {shape}; expected a tensor of shape ({size},).")
    if not bool((values >= 0).all() & torch.isfinite(values).all()):
        raise TTValueError(f"{name}.factors[{k}] gives negative, NaN or infinite values; expected numbers >= 0.")
    return values.to(torch.float64)
