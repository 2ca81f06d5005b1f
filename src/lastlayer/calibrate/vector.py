"""One weight and one bias per class, and their two simpler relations."""

from dataclasses import dataclass

import numpy as np

from lastlayer._array import as_array, floating, namespace, restore
from lastlayer._check import positive
from lastlayer.calibrate._affine_fit import Penalty, fit
from lastlayer.calibrate._affine_structure import Diagonal, Shared
from lastlayer.calibrate.affine import Affine, centred, certificate, inverse_temperature
from lastlayer.calibrate.calibrator import Calibrator, array
from lastlayer.calibrate.temperature import BETA, likelihood, minimise

HOLD = 1e6  # a penalty that holds a parameter where it is


@dataclass(frozen=True, eq=False)
class TemperatureBias(Calibrator):
    """One temperature for all classes and a bias for each: temperature scaling that also mends the class frequencies.

        calibrated = logits / temperature + bias

    The biases add up to 0. A masked class stays masked. Fitted by Newton's method; a temperature outside 1e-4 to 1e4
    is held at that bound, and the certificate says so. "Bias-corrected temperature scaling" in Alexandari, Kundaje and
    Shrikumar 2020.

    >>> TemperatureBias(2.0, [0.5, -0.5])(np.array([4.0, 1.0]))
    array([2.5, 0. ])
    """

    method = "temperature_bias"

    temperature: float
    bias: np.ndarray

    def __post_init__(self):
        positive("TemperatureBias", "temperature", self.temperature)
        object.__setattr__(self, "bias", array("bias", self.bias, (None,)))

    @classmethod
    def free_parameters(cls, classes):
        return classes

    @property
    def width(self):
        return len(self.bias)

    def map(self, logits):
        z = floating(logits)
        xp = namespace(z)
        return restore(z / self.temperature + xp.astype(as_array(self.bias, like=z), z.dtype), logits)

    @classmethod
    def solve(cls, rows):
        """The temperature and biases of least NLL, with their certificate."""
        best, classes = minimise(likelihood(rows)), rows.width
        start = np.append(inverse_temperature(best), np.zeros(classes))
        found = fit(rows, "centred", 1.0, Shared(), Penalty(0 * start, start), start)
        scale, bound = float(found.parameters[0]), None
        if not BETA[0] <= scale <= BETA[1]:
            low = scale < BETA[0]
            scale = BETA[0] if low else BETA[1]
            bound = f"temperature {'<=' if low else '>='} {1 / scale:g}"
            start[0] = scale
            held = Penalty(np.append(HOLD, np.zeros(classes)), start)
            found = fit(rows, "centred", 1.0, Shared(), held, start)
        bias = centred(found.parameters[1:])
        return cls(1 / scale, bias, certificate=certificate(found, best.before.value(), rows, bound))


@dataclass(frozen=True, eq=False)
class VectorScaling(Affine):
    """A weight and a bias for each class: vector scaling (Guo et al. 2017).

        calibrated_k = weights_k * x_k + bias_k,   x = logits - mean(logits)

    The mean is over the row's finite entries: without it a constant added to a row would change the result, which the
    usual definition allows. Fitted to convergence, by Newton's method, or above 150 classes by L-BFGS on the curvature
    of each class; the biases add up to 0. ``temperature`` is 1.

    >>> VectorScaling(1.0, [2.0, 1.0], [0.0, 0.5])(np.array([1.0, -1.0]))
    array([ 2. , -0.5])
    """

    method = "vector"
    kind = "centred"
    structure = Diagonal()

    @classmethod
    def free_parameters(cls, classes):
        return 2 * classes - 1

    @classmethod
    def solve(cls, rows):
        """The weights and biases of least NLL, with their certificate."""
        start = np.repeat([_scale_of_some(rows), 0.0], rows.width)
        found = fit(rows, cls.kind, 1.0, cls.structure, Penalty(0 * start, start), start)
        weights, bias = found.parameters.reshape(2, -1)
        before = likelihood(rows)(1.0).value()
        return cls(1.0, weights, centred(bias), certificate=certificate(found, before, rows))


def _scale_of_some(rows):
    """The inverse temperature of every so many rows, of about a million entries: a start."""
    step = min(len(rows) * rows.width // 2**20, len(rows) // 1000)
    return inverse_temperature(minimise(likelihood(rows.take(np.arange(0, len(rows), max(1, step))))))


@dataclass(frozen=True, eq=False)
class StructuredVectorScaling(Affine):
    """Vector scaling that is held to temperature scaling, the more the fewer rows there are.

        calibrated_k = weights_k * x_k + bias_k,   x = z - mean(z),   z = logits / temperature
        penalty on the mean loss = K / n (||weights - 1||^2 + ||bias||^2)

    The temperature is fitted first, then weights and biases (Berta, Holzmueller, Jordan and Bach 2026, "Structured
    matrix scaling for multi-class calibration"); ``n`` is the weight of the rows. The mean is over finite entries.

    >>> StructuredVectorScaling(2.0, [2.0, 1.0], [0.0, 0.5])(np.array([2.0, -2.0]))
    array([ 2. , -0.5])
    """

    method = "structured_vector"
    kind = "centred"
    structure = Diagonal()

    @classmethod
    def solve(cls, rows):
        """The weights and biases of least penalised NLL, with their certificate."""
        best = minimise(likelihood(rows))
        temperature = 1 / float(best.state.beta)
        start = np.repeat([1.0, 0.0], rows.width)
        penalty = Penalty(np.full(len(start), rows.width / float(rows.weight.sum())), start)
        found = fit(rows, cls.kind, temperature, cls.structure, penalty, start)
        weights, bias = found.parameters.reshape(2, -1)
        proof = certificate(found, best.before.value(), rows, best.bound)
        return cls(temperature, weights, bias, certificate=proof)
