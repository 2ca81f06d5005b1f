"""A full matrix and a bias, held by three kinds of penalty. Without one, 100 classes overfit any calibration set."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lastlayer.calibrate._affine_fit import Penalty, fit
from lastlayer.calibrate._affine_structure import Full
from lastlayer.calibrate.affine import Affine, best_strength, certificate, inverse_temperature
from lastlayer.calibrate.temperature import likelihood, minimise


@dataclass(frozen=True, eq=False)
class Matrix(Affine):
    """A subclass says on which features, what each parameter is pulled to, and how strongly.

    ``strength`` multiplies the penalty; where a ``grid`` of it is given, 3-fold cross-validation on the rows of the fit
    chooses.
    """

    structure = Full()
    at_temperature: ClassVar[bool]  # the features are those of the logits over their own temperature
    grid: ClassVar[tuple[float, ...]] = (1.0,)

    strength: float

    @classmethod
    def penalty(cls, classes) -> tuple[np.ndarray, np.ndarray]:
        """The strengths of (weights, bias) times the number of rows, ``(K, K + 1)``, and the centre of the weights."""
        raise NotImplementedError

    @classmethod
    def solve(cls, rows):
        """The weights and biases of least penalised NLL, with their certificate."""
        strength = cls.grid[0] if len(cls.grid) == 1 else best_strength(rows, cls.grid, cls._held)
        return cls._held(rows, strength)

    @classmethod
    def _held(cls, rows, strength):
        best, classes = minimise(likelihood(rows)), rows.width
        temperature = 1 / float(best.state.beta) if cls.at_temperature else 1.0
        strengths, centre = cls.penalty(classes)
        without_bias = np.zeros((classes, 1))
        penalty = Penalty(
            strengths.ravel() * (strength / float(rows.weight.sum())), np.append(centre, without_bias, 1).ravel()
        )
        scale = 1.0 if cls.at_temperature else inverse_temperature(best)
        start = np.append(np.eye(classes) * scale, without_bias, 1).ravel()
        found = fit(rows, cls.kind, temperature, cls.structure, penalty, start)
        parameters = found.parameters.reshape(classes, classes + 1)
        proof = certificate(found, best.before.value(), rows, best.bound if cls.at_temperature else None)
        return cls(temperature, parameters[:, :-1], parameters[:, -1], strength, certificate=proof)


@dataclass(frozen=True, eq=False)
class MatrixScaling(Matrix):
    """A matrix near the identity, after temperature scaling: structured matrix scaling.

        calibrated = weights @ x + bias,   x = log_softmax(logits / temperature)
        penalty on the mean loss = K / n (||diagonal - 1||^2 + ||bias||^2) + K (K - 1) / n ||off-diagonal||^2

    The penalties of Berta, Holzmueller, Jordan and Bach 2026, "Structured matrix scaling for multi-class calibration",
    so that the matrix is free where rows are plenty and a temperature where they are few; ``strength`` is 1, ``n`` the
    weight of the rows.

    >>> MatrixScaling(1.0, [[1.0, 0.0], [0.5, 1.0]], [0.0, 0.0], 1.0)(np.log([0.5, 0.5])).round(4)
    array([-0.6931, -1.0397])
    """

    method = "matrix"
    kind = "log_softmax"
    at_temperature = True

    @classmethod
    def penalty(cls, classes):
        strengths = np.full((classes, classes + 1), classes * (classes - 1.0))
        strengths[:, -1] = strengths[np.diag_indices(classes)] = classes
        return strengths, np.eye(classes)


@dataclass(frozen=True, eq=False)
class Odir(Matrix):
    """A matrix whose diagonal is free, with off-diagonal and intercept regularisation.

        calibrated = weights @ x + bias,   x = logits - mean(logits)
        penalty on the mean loss = strength K (K - 1) / n (||off-diagonal||^2 + ||bias||^2)

    "MS-ODIR" of Kull et al. 2019, with one strength for both, from 3-fold cross-validation on the rows of the fit;
    ``n`` is their weight. The mean is over the row's finite entries.

    >>> Odir(1.0, [[1.0, 0.0], [0.5, 1.0]], [0.0, 0.0], 1.0)(np.array([1.0, -1.0]))
    array([ 1. , -0.5])
    """

    method = "odir"
    kind = "centred"
    at_temperature = False
    grid = (1000.0, 100.0, 10.0, 1.0)

    @classmethod
    def penalty(cls, classes):
        strengths = np.full((classes, classes + 1), classes * (classes - 1.0))
        strengths[np.diag_indices(classes)] = 0.0
        return strengths, np.zeros((classes, classes))


@dataclass(frozen=True, eq=False)
class Dirichlet(Matrix):
    """A matrix on the log-probabilities: the calibration map when the probabilities of each class are Dirichlet.

        calibrated = weights @ x + bias,   x = log_softmax(logits)
        penalty on the mean loss = strength K (K + 1) / n (||weights||^2 + ||bias||^2)

    Kull et al. 2019, "Beyond temperature scaling", with its L2 penalty ("Dir-L2"), whose strength comes from 3-fold
    cross-validation on the rows of the fit; ``n`` is their weight.

    >>> Dirichlet(1.0, [[1.0, 0.0], [0.5, 1.0]], [0.0, 0.0], 1.0)(np.log([0.5, 0.5])).round(4)
    array([-0.6931, -1.0397])
    """

    method = "dirichlet"
    kind = "log_softmax"
    at_temperature = False
    grid = (1.0, 0.3, 0.1, 0.03, 0.01)

    @classmethod
    def penalty(cls, classes):
        return np.full((classes, classes + 1), classes * (classes + 1.0)), np.zeros((classes, classes))
