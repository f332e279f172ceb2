"""Where the paths of contractions come from: the finders of opt_einsum and cotengra, or the user.

A path is a list of pairs of positions: at each step both operands are removed from the list, and their contraction
is appended.
"""

import operator
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from opt_einsum import DynamicProgramming, RandomGreedy
from opt_einsum.paths import get_path_fn

from ttnet.contraction.equation import Term
from ttnet.errors import TTTypeError, TTValueError, import_extra

# Takes the set of indices of each operand and of the result, the sizes of the indices and, if there is one, the
# memory limit in entries; gives a path.
PathFinder = Callable[..., Sequence[Sequence[int]]]
Path = tuple[tuple[int, ...], ...]
Network = tuple[list[frozenset[int]], frozenset[int], dict[int, int]]
Optimize = str | Sequence[Sequence[int]] | PathFinder

OPTIMIZERS = (
    "auto",
    "auto-hq",
    "optimal",
    "dp",
    "branch-all",
    "branch-2",
    "branch-1",
    "greedy",
    "random-greedy",
    "random-greedy-128",
    "cotengra",
)

# For this many operands, every order is searched under a memory limit: at most some tenths of a second.
_MOST_SEARCHED_WHOLLY = 9
# A greedy finder under a limit takes cubic time, where its name promises less.
_MOST_SEARCHED_GREEDILY = 40


def as_optimizer(optimize: Optimize) -> str | Path | PathFinder:
    """Check where the path is to come from, and make it hashable, so that it can be the key of a cache."""
    if isinstance(optimize, str):
        return optimize
    if callable(optimize):
        try:
            hash(optimize)
        except TypeError:
            raise TTTypeError(
                f"optimize is a {type(optimize).__name__}, which cannot be hashed; plans are cached by their path "
                "finder, so pass a function that calls it."
            ) from None
        return optimize
    return _as_path(optimize, "optimize")


def candidate_paths(
    terms: Sequence[Term], output: Term, sizes: dict[int, int], optimize: str | Path | PathFinder, limit: int | None
) -> Iterator[Path]:
    """Yield paths: the cheapest first, then, for a memory limit, ones that look for small intermediates."""
    # An empty index costs nothing whatever the order, and not every finder takes it.
    costs = {index: max(size, 1) for index, size in sizes.items()}
    network = [frozenset(term) for term in terms], frozenset(output), costs
    if isinstance(optimize, str):
        yield from _searched(network, optimize, limit)
    elif isinstance(optimize, tuple):
        yield _checked(optimize, len(terms), "optimize")
    else:
        yield _checked(_called(network, optimize, limit), len(terms), "the path from optimize")


def _called(network: Network, find: PathFinder, limit: int | None) -> Path:
    try:
        path = find(*network) if limit is None else find(*network, limit)
    except (TypeError, ValueError, RuntimeError) as error:  # an optimizer used for a second network, say
        raise TTValueError(f"optimize, a {type(find).__name__}, found no path: {error}") from error
    return _as_path(path, "the path from optimize")


def _searched(network: Network, name: str, limit: int | None) -> Iterator[Path]:
    cheapest = _named(name)
    operands = len(network[0])
    if operands == 1:
        yield ()
        return
    searches = [cheapest]
    if operands <= _MOST_SEARCHED_WHOLLY:
        within = DynamicProgramming("flops", search_outer=True)
        searches += [partial(within, memory_limit_=limit), DynamicProgramming("size", search_outer=True)]
    else:
        if operands <= _MOST_SEARCHED_GREEDILY or not ("auto" in name or "greedy" in name):
            searches.append(lambda *network: cheapest(*network, limit))
        searches.append(RandomGreedy(max_repeats=128, minimize="size"))
    for search in searches:
        with _own_randomness():
            try:
                path = _as_path(search(*network), name)
            except RuntimeError:  # how dynamic programming says that nothing is within the limit
                if limit is None:
                    raise
                continue
        if all(len(step) == 2 for step in path):  # others then end with one product of all that remains
            yield path


def _named(name: str) -> PathFinder:
    if name == "cotengra":
        return _cotengra
    try:
        return get_path_fn(name)
    except KeyError:
        raise TTValueError(
            f"optimize is {name!r}; expected one of {', '.join(OPTIMIZERS)}, a path such as [(0, 1), (0, 1)], or a "
            "path optimizer of opt_einsum."
        ) from None


def _cotengra(
    inputs: Sequence[frozenset[int]], output: frozenset[int], sizes: dict[int, int], limit: int | None = None
) -> Sequence[Sequence[int]]:
    """Anneal the best of 32 random greedy trees, then find the best order of every small part of it."""
    cotengra = import_extra("cotengra", extra="cotengra")
    greedy = cotengra.RandomGreedyOptimizer(max_repeats=32, seed=0, accel=False, parallel=False)
    tree = greedy.search(inputs, output, sizes)
    if len(inputs) > 2:
        minimize = "flops" if limit is None else "size"
        tree = tree.simulated_anneal(minimize=minimize, seed=0).subtree_reconfigure(minimize=minimize, seed=0)
    return tree.get_path()


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Keep random finders, which seed Python's generator, from doing so to the user."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _as_path(path: Any, name: str) -> Path:
    try:
        return tuple(tuple(map(operator.index, step)) for step in path)
    except TypeError:
        raise TTTypeError(
            f"{name} is {path!r}; expected the name of a path finder, a path such as [(0, 1), (0, 1)], or a path "
            "optimizer of opt_einsum."
        ) from None


def _checked(path: Path, operands: int, name: str) -> Path:
    if len(path) != operands - 1:
        raise TTValueError(
            f"{name} has length {len(path)}; expected {operands - 1}, one step less than there are operands: each "
            "replaces two of them by their contraction."
        )
    for number, step in enumerate(path):
        remain = operands - number
        if len(step) != 2 or step[0] == step[1] or not all(0 <= position < remain for position in step):
            raise TTValueError(
                f"step {number} of {name} is {step}; expected two different positions among the {remain} operands "
                f"that remain, 0 to {remain - 1}."
            )
    return path
