"""What classifiers and regressions are judged by, on numpy arrays; and the names of all measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def accuracy(predictions: Array, labels: Array) -> float:
    """Return the share of predictions that are right.

    Args:
        predictions: Class indices, shape `(n,)`.
        labels: Class indices, shape `(n,)`.

    Returns:
        A number in [0, 1].

    Example:
        >>> accuracy(np.array([0, 1, 1]), np.array([0, 1, 0])).__round__(3)
        0.667
    """
    return float(np.mean(predictions == labels))


def f1(predictions: Array, labels: Array) -> float:
    """Return the F1 score of class 1; 0 where it is neither predicted nor present.

    Args:
        predictions: Class indices 0 or 1, shape `(n,)`.
        labels: Class indices 0 or 1, shape `(n,)`.

    Returns:
        A number in [0, 1].

    Example:
        >>> f1(np.array([1, 1, 0]), np.array([1, 0, 0])).__round__(3)
        0.667
    """
    hits = int(np.sum((predictions == 1) & (labels == 1)))
    named = int(np.sum(predictions == 1) + np.sum(labels == 1))
    return 2 * hits / named if named else 0.0


def matthews(predictions: Array, labels: Array) -> float:
    """Return Matthews' correlation of two classes; 0 where one side is constant, as scikit-learn has it.

    Args:
        predictions: Class indices 0 or 1, shape `(n,)`.
        labels: Class indices 0 or 1, shape `(n,)`.

    Returns:
        A number in [-1, 1].

    Example:
        >>> matthews(np.array([1, 1, 0]), np.array([1, 0, 0]))
        0.5
    """
    # For two classes Matthews' coefficient is the linear correlation of the two 0/1 vectors.
    return pearson(predictions, labels)


def pearson(predictions: Array, labels: Array) -> float:
    """Return the linear correlation; 0 where one side is constant.

    Args:
        predictions: Numbers, shape `(n,)`.
        labels: Numbers, shape `(n,)`.

    Returns:
        A number in [-1, 1].

    Example:
        >>> pearson(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]))
        1.0
    """
    x, y = (values.astype(np.float64) - values.astype(np.float64).mean() for values in (predictions, labels))
    # Scaled before squaring, so that small predictions do not underflow.
    scale_x, scale_y = np.abs(x).max(initial=0.0), np.abs(y).max(initial=0.0)
    if scale_x == 0.0 or scale_y == 0.0:
        return 0.0
    x, y = x / scale_x, y / scale_y
    return float(np.clip(round(float(x @ y / np.sqrt((x @ x) * (y @ y))), 12), -1.0, 1.0))


def spearman(predictions: Array, labels: Array) -> float:
    """Return the correlation of ranks, where equal numbers share the mean of theirs; 0 where one side is constant.

    Args:
        predictions: Numbers, shape `(n,)`.
        labels: Numbers, shape `(n,)`.

    Returns:
        A number in [-1, 1].

    Example:
        >>> spearman(np.array([0.1, 0.2, 9.0]), np.array([1.0, 2.0, 3.0]))
        1.0
    """
    return pearson(_ranks(predictions), _ranks(labels))


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Array = last - (counts - 1) / 2
    return means[inverse]


MEASURES: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
}


def micro_f1(predictions: Array, labels: Array) -> float:
    """Return the F1 score of all classes together; 0 where nothing is predicted or present.

    Args:
        predictions: Which classes are predicted for a text, shape `(n, classes)`.
        labels: Which classes it has, shape `(n, classes)`.

    Returns:
        A number in [0, 1].

    Example:
        >>> micro_f1(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [1, 0]]))
        0.5
    """
    return f1(predictions.ravel(), labels.ravel())


def macro_f1(predictions: Array, labels: Array) -> float:
    """Return the mean of the F1 scores of all classes; that of a class is 0 where it is neither predicted nor present.

    Args:
        predictions: Which classes are predicted for a text, shape `(n, classes)`.
        labels: Which classes it has, shape `(n, classes)`.

    Returns:
        A number in [0, 1].

    Example:
        >>> macro_f1(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [1, 0]])).__round__(3)
        0.333
    """
    return float(np.mean([f1(said, right) for said, right in zip(predictions.T, labels.T, strict=True)]))


def subset_accuracy(predictions: Array, labels: Array) -> float:
    """Return the share of texts whose classes are all right, and no others predicted.

    Args:
        predictions: Which classes are predicted for a text, shape `(n, classes)`.
        labels: Which classes it has, shape `(n, classes)`.

    Returns:
        A number in [0, 1].

    Example:
        >>> subset_accuracy(np.array([[1, 1], [1, 0]]), np.array([[1, 0], [1, 0]]))
        0.5
    """
    return float(np.mean((predictions == labels).all(axis=1)))


MEASURES_OF_SEVERAL: dict[str, Callable[[Array, Array], float]] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_f1,
    "subset_accuracy": subset_accuracy,
}
# What embeddings are judged by.
OF_SCORES = ("spearman", "pearson")
OF_PAIRS = ("retrieval_accuracy",)  # the share of texts whose partner is the nearest of all partners
OF_TRIPLETS = ("triplet_accuracy",)
LOSSES = ("loss", "perplexity", "token_accuracy")  # of what writes texts
KNOWN = (*MEASURES, *MEASURES_OF_SEVERAL, *LOSSES, "entity_f1", "spearman", *OF_PAIRS, *OF_TRIPLETS)
SHARES = (
    "accuracy",
    "f1",
    *MEASURES_OF_SEVERAL,
    "token_accuracy",
    "entity_f1",
    *OF_PAIRS,
    *OF_TRIPLETS,
)  # read as percentages
SMALLER_IS_BETTER = ("loss", "perplexity")


def measure(logits: Array, labels: Array, names: tuple[str, ...]) -> dict[str, float]:
    """Compute measures from a model's output.

    Args:
        logits: Shape `(n, classes)`; `(n, 1)` for a regression.
        labels: Shape `(n,)`; `(n, classes)` where a text may have several, which are predicted from a probability of
            one half.
        names: Keys of `MEASURES`, or of `MEASURES_OF_SEVERAL`.

    Returns:
        The measures by name, in the given order.

    Example:
        >>> measure(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([0, 1]), ("accuracy",))
        {'accuracy': 1.0}
    """
    if labels.ndim == 2:
        return {name: MEASURES_OF_SEVERAL[name](logits >= 0, labels) for name in names}
    predictions = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)
    return {name: MEASURES[name](predictions, labels) for name in names}
