"""The calibrator that changes nothing: what every other one has to beat."""

from dataclasses import dataclass

import numpy as np

from lastlayer._array import as_array
from lastlayer.calibrate.calibrator import Calibrator, Certificate


@dataclass(frozen=True, eq=False)
class Identity(Calibrator):
    """Logits as they are.

    >>> Identity()(np.array([2.0, 1.0]))
    array([2., 1.])
    """

    method = "identity"

    @classmethod
    def solve(cls, rows):
        nll = float(np.average(rows.losses(cls()), weights=rows.weight))
        certificate = Certificate(True, 0, 0.0, None, nll, nll, *rows.left_out)
        return cls(certificate=certificate)

    def map(self, logits):
        return as_array(logits)
