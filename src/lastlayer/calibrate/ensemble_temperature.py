"""Ensemble temperature scaling: a mixture of the model at a temperature, the model as it is, and knowing nothing.

    loss(w) = - sum_i weight_i log( w_1 p_T(y_i) + w_2 p_1(y_i) + w_3 / K ),   w on the simplex

Given the temperature the loss is convex in the weights. With ``total weight * sum(w)`` added and only ``w >= 0`` asked
for, the solution is the same and lies on the simplex by itself: the multiplier of ``sum(w) = 1`` is the total weight.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lastlayer._array import floating, namespace, restore
from lastlayer._check import one_of, positive
from lastlayer.calibrate._bounded_newton import Sums, minimise
from lastlayer.calibrate.calibrator import Calibrator
from lastlayer.calibrate.temperature import Temperature
from lastlayer.loss import cross_entropy
from lastlayer.transform import log_sigmoid, log_softmax, logsumexp


@dataclass(frozen=True, eq=False)
class EnsembleTemperature(Calibrator):
    """The log-probabilities of a mixture: the logits at a temperature, the logits as they are, and equal shares.

        calibrated = log( tempered * p_T + plain * p_1 + uniform / K ),   summed as logarithms: no tail is lost

    The weights are at least 0 and sum to 1. ``task`` says what a logit is: a class of its row (``"multiclass"``, K the
    classes that are not masked), or a label of its own (``"binary"``, K = 2), which comes out as log-odds. The order of
    the classes stays. A masked class stays masked, an empty row empty; with ``uniform > 0`` an infinite logit gets its
    finite limit. The temperature is that of `Temperature`, the weights are the best beside it (Zhang, Kailkhura and Han
    2020), so the fit is never worse than `Temperature` on its own rows.

    >>> EnsembleTemperature(2.0, 0.9, 0.0, 0.1, "binary")(np.array([0.0, 40.0])).round(3)
    array([0.   , 2.944])
    """

    method = "ensemble_temperature"

    temperature: float
    tempered: float
    plain: float
    uniform: float
    task: str

    def __post_init__(self):
        positive("EnsembleTemperature", "temperature", self.temperature)
        one_of("EnsembleTemperature", "task", self.task, ("multiclass", "binary"))
        if not (min(self.weights) >= 0 and abs(sum(self.weights) - 1) <= 1e-9):
            raise ValueError(
                f"EnsembleTemperature: three weights of at least 0, whose sum is 1 to 1e-9, not {self.weights}."
            )

    @property
    def weights(self):
        return self.tempered, self.plain, self.uniform

    def map(self, logits):
        x: Any = floating(logits)
        if self.task == "multiclass":
            xp = namespace(x)
            return restore(xp.where(x == -xp.inf, -xp.inf, self._mixed(_of_classes(x, self.temperature))), logits)
        yes, no = (self._mixed(_of_label(side, self.temperature)) for side in (x, -x))
        return restore(yes - no, logits)

    def _mixed(self, parts):
        logs = [part + math.log(w) for part, w in zip(parts, self.weights, strict=True) if w]
        return logsumexp(namespace(parts[0]).stack(logs, axis=-1))

    @classmethod
    def solve(cls, rows):
        """The temperature of least NLL, then the weights of least NLL beside it, with their certificate."""
        single = Temperature.solve(rows)
        first: Any = single.certificate
        logs, weight = _targets(rows, single.temperature)
        largest = logs.max(0)
        shares, total = np.exp(logs - largest), weight.sum()

        def sums(w):
            with np.errstate(all="ignore"):
                mixed = (w[:, None] * shares).sum(0)
                rate = weight * (shares / mixed)
                loss = total * w.sum() - (weight * np.log(mixed)).sum()
                slope = rate.sum(1)
                curvature = np.einsum("in,jn->ij", rate, shares / mixed)
            return Sums(float(loss), total - slope, total + slope, curvature)

        best = minimise(sums, np.full(3, 1 / 3), np.zeros(3))
        tempered, plain, uniform = (float(w) for w in best.parameters / best.parameters.sum())
        task = "multiclass" if rows.task == "multiclass" else "binary"
        certificate = replace(
            first,
            converged=first.converged and best.converged,
            iterations=first.iterations + best.passes,
            gradient=max(first.gradient, best.gradient),
            nll_after=float((best.loss - total - (weight * largest).sum()) / rows.weight.sum()),
        )
        return cls(single.temperature, tempered, plain, uniform, task, certificate=certificate)

    @classmethod
    def free_parameters(cls, classes):
        return 3


def _of_classes(x, temperature):
    """Log-probabilities of each class: tempered, plain, and equal shares of what is not masked."""
    xp = namespace(x)
    allowed = x != -xp.inf
    count = xp.sum(xp.astype(allowed, x.dtype), axis=-1, keepdims=True)
    plain: Any = log_softmax(x)
    equal = xp.where(allowed, -xp.log(xp.where(count > 0, count, xp.ones_like(count))), -xp.inf)
    return log_softmax(x, temperature=temperature), plain, xp.where(xp.isnan(plain), plain, equal)


def _of_label(x, temperature):
    """Log-probabilities of a label that is there: tempered, plain, and one half."""
    xp = namespace(x)
    half = xp.where(xp.isnan(x), x, xp.full_like(x, -math.log(2)))
    return log_sigmoid(x / temperature), log_sigmoid(x), half


def _targets(rows, temperature):
    """Log-probabilities of the targets under the three parts, (3, n), and their weights."""
    columns, weights = [], []
    for block in rows.blocks():
        z, target = block.logits.astype(np.float64), block.target
        if rows.task != "multiclass":
            z = np.stack([np.zeros_like(z), z], axis=-1).reshape(-1, 2)
            target = np.stack([1 - target, target], axis=-1).reshape(-1, 2)
        weight = np.repeat(block.weight, len(z) // len(block))
        if target.ndim == 1:
            equal = -np.log((z > -np.inf).sum(1))
            columns.append(np.stack([-cross_entropy(z / temperature, target), -cross_entropy(z, target), equal]))
            weights.append(weight)
        else:
            columns.append(np.stack([part[target > 0] for part in _of_classes(z, temperature)]))
            weights.append((weight[:, None] * target)[target > 0])
    return np.concatenate(columns, axis=1), np.concatenate(weights)
