"""What a linear classifier minimises: the data, the outputs, and the penalty on its coefficients.

    F(B, b) = sum_i w_i loss(o_i + B x_i + b, y_i) + sum_kj (l2_j B_kj^2 / 2 + l1_j |B_kj|),   low_j <= B_kj <= high_j

The intercept b is never penalised. With scikit-learn's C, which stands before the losses there, l2 = (1 - l1_ratio) / C
and l1 = l1_ratio / C: the same minimum.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

Family = Literal["binary", "multinomial", "multilabel", "ordinal"]


@dataclass(frozen=True)
class Penalty:
    """Of each feature: ``l2``, ``l1``, and the bounds of its coefficients, all of shape ``(features,)``."""

    l2: np.ndarray
    l1: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def smooth(self):
        """Whether derivatives say where the minimum is: neither an absolute value nor a bound."""
        return not self.l1.any() and self.low is None and self.high is None


@dataclass(frozen=True)
class Problem:
    """Rows, and what their coefficients should make of them."""

    features: Any  # (n, d): float32 or float64, dense in either order or a CSR array
    target: np.ndarray  # binary (n,), multilabel (n, labels): shares of 1. multinomial, ordinal (n,): 0 .. K-1
    weight: np.ndarray  # (n,), float64
    offset: np.ndarray | None  # (n,) or (n, outputs): logits that come on top, whose coefficient is 1
    family: Family
    outputs: int  # rows of the coefficients: 1, K, labels, 1
    intercept: bool
    penalty: Penalty


@dataclass(frozen=True)
class Certificate:
    """How a fit ended: what proves that it is at the minimum, or says that it is not."""

    solver: str
    passes: int  # over all the rows
    objective: float
    gradient: float  # the largest entry of the (projected) gradient, relative to its scale at zero coefficients
    gap: float | None  # objective - minimum is at most this; None where nothing bounds it
    converged: bool
    escapes: bool  # the gradient fades while coefficients grow: the minimum is at infinity
    seconds: float


class Fit(NamedTuple):
    """A minimum, in float64.

    ``inverse`` is the inverse of the Hessian of F there, where the solver has it (Newton). Its rows are the
    coefficients of an output, then its intercept, output by output: ``(outputs * (d + 1),) * 2``. For ordinal the
    coefficients, then the thresholds; for multilabel one table of each label, ``(labels, d + 1, d + 1)``. Where
    something is not identified, as a constant added to all classes, it is the inverse of the rest.
    """

    coef: np.ndarray  # (outputs, d)
    intercept: np.ndarray  # (outputs,), zeros without intercept; ordinal: (K - 1,) thresholds, ascending
    certificate: Certificate
    inverse: np.ndarray | None = None
