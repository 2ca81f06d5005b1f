"""Which solver a `Problem` goes to: the choice depends on its sizes and its penalty alone."""

from lastlayer.train import _hessian_free, _newton, _ordinal, _whitened
from lastlayer.train._problem import Fit, Problem

NEWTON = 700  # parameters: a Hessian of so many, summed over the rows, still costs less than the passes it saves
PAIRS = 2**23  # parameters: the fewest pairs of steps that L-BFGS keeps would take 640 MiB


def solve(problem: Problem, start=None, tol=1e-6, most=1000) -> Fit:
    """The minimum of F, in about ``most`` passes over the rows; ``start`` is (coef, intercept).

    ``tol`` bounds the gradient of the mean loss by each standardised feature, which is what `Certificate` calls its
    scale.
    """
    if not problem.penalty.smooth:
        from lastlayer.train import _coordinate

        return _coordinate.solve(problem, start, tol, most)
    if parameters(problem) <= NEWTON:
        return _newton.solve(problem, start, tol, most)
    if problem.family == "ordinal":
        return _ordinal.solve(problem, start, tol, most)
    if parameters(problem) > PAIRS and _hessian_free.suits(problem):
        return _hessian_free.solve(problem, start, tol, most)
    return _whitened.solve(problem, start, tol, most)


def parameters(problem: Problem) -> int:
    """The size of the Hessian: all that a class, a label or a score takes, and the classes where they are joined."""
    width = problem.features.shape[1] + problem.intercept
    return width * (problem.outputs - 1) if problem.family == "multinomial" else width
