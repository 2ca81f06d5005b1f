"""Small problems of every family, and the objective from its definition."""

import numpy as np
from scipy.special import log_softmax

from lastlayer.train._problem import Penalty, Problem

FAMILIES = ("binary", "multinomial", "multilabel", "ordinal")


def problem(family, n=80, d=3, outputs=4, seed=0, **changes):
    """Correlated features in different units, uneven weights, offsets, and a penalty that differs by feature."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 10.0 ** np.linspace(-1, 1, d) + 2.0
    outputs = outputs if family in ("multinomial", "multilabel") else 1
    shape = (n,) if outputs == 1 else (n, outputs)
    target = {
        "binary": lambda: rng.integers(0, 2, n).astype(float),
        "multinomial": lambda: np.resize(rng.permutation(outputs), n),
        "multilabel": lambda: rng.integers(0, 2, (n, outputs)).astype(float),
        "ordinal": lambda: np.resize(rng.permutation(4), n),
    }[family]()
    made = dict(
        features=features,
        target=target,
        weight=rng.uniform(0.2, 2.0, n),
        offset=rng.normal(size=shape),
        family=family,
        outputs=outputs,
        intercept=True,
        penalty=Penalty(rng.uniform(0.5, 2.0, d), np.zeros(d)),
    )
    return Problem(**(made | changes))


def value(problem, coef, intercept):
    """F from its definition."""
    x = problem.features.toarray() if hasattr(problem.features, "toarray") else problem.features
    z = np.asarray(x, float) @ coef.T
    if problem.offset is not None:
        z = z + problem.offset.reshape(z.shape)
    rows, y = np.arange(len(z)), problem.target
    if problem.family == "ordinal":
        ends = np.concatenate([[-np.inf], intercept, [np.inf]])
        above, below = (1 / (1 + np.exp(z[:, 0] - e)) for e in (ends[y + 1], ends[y]))
        losses = -np.log(above - below)
    elif problem.family == "multinomial":
        losses = -log_softmax(z + intercept, axis=1)[rows, y]
    else:
        z = z + intercept
        losses = (np.logaddexp(0, z) - y.reshape(z.shape) * z).sum(1)
    return float(problem.weight @ losses + (problem.penalty.l2 * coef**2).sum() / 2)


def somewhere(problem, seed=1):
    """Coefficients and intercepts that are no minimum."""
    rng = np.random.default_rng(seed)
    coef = 0.1 * rng.normal(size=(problem.outputs, problem.features.shape[1]))
    if problem.family == "ordinal":
        return coef, np.array([-1.0, 0.2, 1.5])
    return coef, rng.normal(size=problem.outputs) * problem.intercept
