"""Calibrators that are affine maps of the logits: their record, their map, and how a fit of one begins and ends.

    logits' = A x + b

A method says what stands in A (`_affine_structure`), what x is (`_affine_features`), and how strongly each parameter is
held (`_affine_fit.Penalty`).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lastlayer._array import as_array, namespace, restore
from lastlayer._check import positive
from lastlayer.calibrate._affine_features import features
from lastlayer.calibrate._affine_fit import Fit
from lastlayer.calibrate._affine_structure import Structure
from lastlayer.calibrate.calibrator import Calibrator, Certificate, array
from lastlayer.calibrate.temperature import Optimum

SEPARABLE = "weights and bias without bound: the rows are separable"


@dataclass(frozen=True, eq=False)
class Affine(Calibrator):
    """``weights`` is a matrix, or its diagonal, on rows at ``temperature``; ``bias`` is one number per class.

    A constant added to a row changes nothing. A masked class moves no other and stays masked. +inf is taken as the
    limit, the only class, or one of those at +inf; a nan stays in its row. float32 in, float32 out; gradients pass.
    """

    kind: ClassVar[str]
    structure: ClassVar[Structure]

    temperature: float
    weights: np.ndarray
    bias: np.ndarray

    def __post_init__(self):
        positive(type(self).__name__, "temperature", self.temperature)
        bias = array("bias", self.bias, (None,))
        shape = (len(bias),) * np.ndim(self.weights)
        object.__setattr__(self, "weights", array("weights", self.weights, shape or (len(bias),)))
        object.__setattr__(self, "bias", bias)

    @property
    def width(self):
        return len(self.bias)

    def map(self, logits):
        x, masked = features(logits, self.kind, self.temperature)
        xp = namespace(x)
        weights, bias = (xp.astype(as_array(v, like=x), x.dtype) for v in (self.weights, self.bias))
        mapped = x * weights if weights.ndim == 1 else x @ weights.T
        return restore(xp.where(masked, -xp.inf, mapped + bias), logits)


def certificate(found: Fit, before, rows, bound=None) -> Certificate:
    """The certificate of a fit to rows with a mean loss of ``before``; a minimum at infinity is a bound."""
    least = found.minimum
    return Certificate(
        least.converged and bound is None,
        least.passes,
        least.gradient,
        bound or (SEPARABLE if least.escapes else None),
        before,
        found.loss,
        *rows.left_out,
    )


def inverse_temperature(best: Optimum) -> float:
    """Where a fit begins: at the best temperature, or where that is at its bound, at the logits as they are."""
    return float(best.state.beta) if best.bound is None else 1.0


def centred(bias):
    """Biases without the constant that a softmax does not see."""
    return bias - bias.mean()


def best_strength(rows, grid, fitted, folds=3):
    """The strength of least cross-validated loss, where ``fitted(rows, strength)`` is a calibrator.

    The folds follow from the rows' hashes, so that their order says nothing.
    """
    fold = rows.folds(folds, seed=0)
    losses = np.zeros(len(grid))
    for k in np.unique(fold):
        out = fold == k
        if out.all():
            continue
        fit_to, held_out = rows.take(~out), rows.take(out)
        for i, strength in enumerate(grid):
            losses[i] += float((held_out.losses(fitted(fit_to, strength)) * held_out.weight).sum())
    return grid[int(losses.argmin())]
