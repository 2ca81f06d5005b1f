"""Certificates of what is fitted without a loss of its own at hand: the losses are those of its calibrated rows."""

from typing import NamedTuple

import numpy as np

from lastlayer.calibrate.calibrator import Certificate
from lastlayer.calibrate.identity import Identity


def certified(fitted, rows, converged=True, iterations=1, gradient=0.0, bound=None) -> Certificate:
    """The certificate of a calibrator fitted to ``rows``; what is found without iteration has converged in one."""
    before, after = (float(np.average(rows.losses(each), weights=rows.weight)) for each in (Identity(), fitted))
    return Certificate(converged, iterations, gradient, bound, before, after, *rows.left_out)


class Ending(NamedTuple):
    """How several fits ended, each named: the worst of each, and the bound that one of them ran into."""

    converged: bool
    iterations: int
    gradient: float
    bound: str | None

    @classmethod
    def of(cls, parts) -> "Ending":
        """Of fitted calibrators by name; a bound that left one without a solution is named before others."""
        each = {name: part.certificate for name, part in parts.items()}
        bounds = [(done.converged, f"{name}: {done.bound}") for name, done in each.items() if done.bound is not None]
        return cls(
            all(done.converged for done in each.values()),
            max(done.iterations for done in each.values()),
            max(done.gradient for done in each.values()),
            min(bounds, key=lambda found: found[0])[1] if bounds else None,
        )
