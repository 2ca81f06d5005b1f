"""Newton's method for classes whose Hessian is never held: its products with directions are streamed.

Each step solves the Newton equation to a tenth by conjugate gradients, whose variables are whitened as in `_whitened`;
a product costs a pass and a half. Its memory is six tables of the size of the coefficients, where L-BFGS keeps ten
more; in passes L-BFGS won (10,000 x 128 x 200: LOG), so it has those that are too many to keep pairs of. Dense
features and softmax only, with at most one offset for all the classes of a row, which changes nothing there.
"""

import time
from typing import Any

import numpy as np

from lastlayer.linear import linear_hessian_product
from lastlayer.parallel import single_products
from lastlayer.train._problem import Fit, Problem
from lastlayer.train._whitened import PASSES, Function, ahead, begun, dot, ended, finished

FORCING = 0.1  # of the gradient, in the whitened norm: what a step may leave of it
PRODUCTS = 50  # of one step, at most
MEMORY = "32MiB"


def suits(problem: Problem) -> bool:
    """Whether it is dense features and softmax, with at most one offset for all the classes of a row."""
    apart = problem.offset is not None and problem.offset.ndim == 2
    return problem.family == "multinomial" and not hasattr(problem.features, "tocsc") and not apart


def solve(problem: Problem, start=None, tol=1e-6, most=PASSES) -> Fit:
    """The minimum of F, in about ``most`` passes and products; ``start`` and ``tol`` are those of `_whitened.solve`."""
    if not suits(problem):
        raise ValueError(
            "_hessian_free.solve: dense features and softmax of one offset a row; _whitened.solve has all."
        )
    began = time.perf_counter()
    function = Function(problem)
    with single_products():
        here, passes = begun(function, start)
    while True:
        with single_products():
            step = function.step(here)
        step, products = _newton(function, here, step, most - passes)
        passes += products
        slope = dot(here.gradient, step)
        converged, faded, over = finished(function, here, slope, tol)
        if over or passes >= most:
            break
        with single_products():
            there, tried = ahead(function, here, step, slope)
        passes += tried
        if there is None:  # rounding hides every fall: nothing is left to gain
            break
        here = there
    return ended("hessian-free", function, here, passes, converged, faded, time.perf_counter() - began)


def _newton(function, here, solve, most):
    """The step that conjugate gradients find, and the products they took."""
    step, residual = np.zeros_like(here.at), -here.gradient
    whitened = solve(residual)
    along, left = whitened.copy(), dot(residual, whitened)
    enough = FORCING**2 * left
    for products in range(1, max(min(PRODUCTS, most), 1) + 1):
        if not left > 0:
            return step, products - 1
        bent = _product(function, here.at, along)
        length = left / dot(along, bent)
        step += along.dtype.type(length) * along
        residual -= along.dtype.type(length) * bent
        whitened = solve(residual)
        before, left = left, dot(residual, whitened)
        if left <= enough:
            break
        along = whitened + along.dtype.type(left / before) * along
    return step, products


def _product(function, at, along):
    """The Hessian of F at ``at`` times ``along``."""
    problem, centre = function.problem, function.moments.centre
    made: Any = linear_hessian_product(
        problem.features,
        np.ascontiguousarray(at[:-1].T),
        np.ascontiguousarray(along[:-1].T),
        bias=_bias(at, centre),
        bias_direction=_bias(along, centre),
        row_weight=problem.weight,
        memory=MEMORY,
    )
    out = np.zeros_like(along)
    out[:-1] = made.weight.T - np.multiply.outer(centre, made.bias) + function.l2[:, None] * along[:-1]
    if problem.intercept:
        out[-1] = made.bias
    return out


def _bias(table, centre):
    return (table[-1] - centre @ table[:-1]).astype(table.dtype)
