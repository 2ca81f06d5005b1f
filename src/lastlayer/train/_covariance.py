"""The covariance of fitted coefficients: bread, what is between, and the rows each takes part in.

    cov = H^-1 M H^-1,   H the Hessian of F with its penalty

    hessian   M = that of the losses alone: without a penalty this is H^-1
    robust    M = sum_i s_i s_i',  s_i the slope of row i (Huber 1967, White 1982); HC1 is n / (n - k) of it
    cluster   M = sum_g (sum_i s_i) (...)' over the rows i of cluster g (Liang and Zeger 1986); CR1 is
              G / (G - 1) (n - 1) / (n - k) of it

All is computed in standardised features (`_objective.Frame`) and then turned: units change nothing.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lastlayer._check import DataError, shape
from lastlayer.train._newton import inverted, scaled
from lastlayer.train._objective import BLOCK, Frame, Objective, binary_rows, design, multinomial_rows
from lastlayer.train._problem import Problem
from lastlayer.transform.sigmoid import sigmoid

MOST = 5000  # parameters: a table of so many squared is 200 MB
SHARE = 1e-3  # of a direction's largest entry: what takes part in it


class Sandwich(NamedTuple):
    """Of coefficients and intercepts output by output, as `Fit.inverse` has them; labels one after the other."""

    covariance: np.ndarray
    loss: float
    df: float  # trace of H^-1 and the Hessian of the losses: the number of parameters without a penalty
    gradient: float  # the largest entry, relative to the sum of weights
    distance: float  # to the minimum by one Newton step, in standard errors


class _Part(NamedTuple):
    """One label, or everything."""

    objective: Objective
    at: np.ndarray
    loss: float
    gradient: np.ndarray
    bread: np.ndarray
    information: np.ndarray


def sandwich(problem: Problem, coef, intercept, covariance, clusters, small_sample, counts, names) -> Sandwich:
    """The covariance at ``coef`` and ``intercept``; ``counts`` says that weights are numbers of rows."""
    frame = Frame.of(problem)
    labels = list(_labels(problem, coef, intercept))
    parts = [_part(one, frame, *at, names, len(labels)) for one, at in labels]
    bread = _diagonal([part.bread for part in parts])
    information = _diagonal([part.information for part in parts])
    if covariance == "hessian":
        between = information
    else:
        factor = _factor(problem, len(parts[0].at), clusters, counts) if small_sample else 1.0
        between = _between(parts, clusters, counts) * factor
    inner = bread @ between @ bread
    error = np.sqrt(np.diag(inner))
    turn = _diagonal([_turn(part) for part in parts])
    gradient = np.concatenate([part.gradient for part in parts])
    return Sandwich(
        covariance=turn @ inner @ turn.T,
        loss=sum(part.loss for part in parts),
        df=float((bread * information).sum()),
        gradient=float(np.abs(gradient).max() / problem.weight.sum()),
        distance=float((np.abs(bread @ gradient)[error > 0] / error[error > 0]).max(initial=0.0)),
    )


def _diagonal(tables) -> np.ndarray:
    from scipy.linalg import block_diag

    return np.asarray(block_diag(*tables))


def _labels(problem, coef, intercept):
    """A problem of one output for each label, and what it is otherwise."""
    if problem.family != "multilabel":
        yield problem, (coef, intercept)
        return
    for k in range(problem.outputs):
        offset = None if problem.offset is None else problem.offset[:, k]
        one = replace(problem, target=problem.target[:, k], offset=offset, family="binary", outputs=1)
        yield one, (coef[k : k + 1], intercept[k : k + 1])


def _part(problem, frame, coef, intercept, names, labels):
    objective = Objective(problem, frame)
    at = objective.inward(coef, intercept)
    if (size := len(at) * labels) > MOST:
        raise ValueError(
            f"inference: the covariance of {size:,} coefficients is a table of {size:,} squared; up to {MOST:,} are "
            "possible. Take fewer features, or bootstrap=200."
        )
    sums = objective.sums(at)
    penalised = objective.penalised(at, sums)
    bread = inverted(penalised.hessian)
    if round((bread * penalised.hessian).sum()) < len(at):
        refuse_undetermined(penalised.hessian, objective.axes.shape[1], names)
    return _Part(objective, at, float(sums.loss), penalised.gradient, bread, sums.hessian)


def refuse_undetermined(hessian, outputs, names):
    """Name the columns along which the Hessian has no curvature."""
    matrix, root = scaled(hessian)
    values, vectors = np.linalg.eigh(matrix)
    lost = vectors[:, values <= len(values) * 1e-13 * values[-1]] / root[:, None]
    flat = np.diag(hessian) == 0  # a column that is 0 throughout
    share = np.abs(lost).max(1, initial=0.0)
    taking = flat | (share > SHARE * share.max(initial=0.0))
    columns = [name for j, name in enumerate(names) if taking.reshape(outputs, -1)[:, j].any()]
    raise DataError(
        f"{listed(columns)} {'is' if len(columns) == 1 else 'are'} constant or made up by one another, so that without "
        "a penalty the coefficients are not determined and have no standard error.",
        field="X",
        fix="leave one of them out.",
    )


def listed(names, most=5) -> str:
    """The first names of some, and how many there are."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _turn(part):
    """From parameters to coefficients and intercepts as the features came."""
    objective = part.objective
    intercepts = len(part.at) // objective.axes.shape[1] - objective.width
    return np.kron(objective.axes, objective.frame.jacobian(intercepts, objective.sign))


def _factor(problem, parameters, clusters, counts):
    rows = problem.weight.sum() if counts else np.count_nonzero(problem.weight)
    if rows <= parameters:
        raise ValueError(
            f"inference: {rows:g} rows for {parameters} coefficients leave nothing to estimate their spread from."
        )
    if clusters is None:
        return rows / (rows - parameters)
    groups = len(np.unique(clusters[problem.weight > 0]))
    return groups / (groups - 1) * (rows - 1) / (rows - parameters)


def _between(parts, clusters, counts):
    """Sum over rows, or clusters, of the squares of their slopes."""
    from scipy.sparse import csr_array

    problem = parts[0].objective.problem
    rows, width = len(problem.weight), sum(len(part.at) for part in parts)
    sums = np.zeros((0 if clusters is None else clusters.max() + 1, width))
    total = np.zeros((width, width))
    step = max(BLOCK // width, 1)
    for a in range(0, rows, step):
        some = slice(a, min(a + step, rows))
        table = np.concatenate([_slopes(part, some) for part in parts], axis=1)
        if clusters is not None:
            places = clusters[some], np.arange(len(table))
            sums += csr_array((np.ones(len(table)), places), shape=(len(sums), len(table))) @ table
            continue
        if counts:
            weight = problem.weight[some, None]
            table /= np.sqrt(np.where(weight > 0, weight, 1.0))
        total += table.T @ table
    return total if clusters is None else sums.T @ sums


def _slopes(part, some):
    """The gradient of each row's loss, with its weight, by the parameters."""
    problem, objective = part.objective.problem, part.objective
    target, weight = problem.target[some], problem.weight[some]
    offset = 0.0 if problem.offset is None else problem.offset[some]
    ordinal = problem.family == "ordinal"
    table = design(problem.features[some], objective.frame, problem.intercept and not ordinal)
    if problem.family == "binary":
        return table * binary_rows(table @ part.at + offset, target, weight)[1][:, None]
    if ordinal:
        width = objective.width
        slopes = _steps(table @ part.at[:width] + offset, target, weight, part.at[width:])
        return np.concatenate([table * -slopes.sum(1)[:, None], slopes], axis=1)
    inner = part.at.reshape(objective.axes.shape[1], -1)
    slope = multinomial_rows(table @ (objective.axes @ inner).T + offset, target, weight)[1] @ objective.axes
    return (slope[:, :, None] * table[:, None, :]).reshape(len(table), -1)


def _steps(score, target, weight, thresholds):
    """The gradient of each row's loss by the thresholds; by its score it is minus their sum.

    loss = softplus(-b) + softplus(a) - log(1 - exp(a - b)),   b = t_y - s,   a = t_{y-1} - s   (`ordinal_rows`)
    """
    ends = np.concatenate([[-np.inf], thresholds, [np.inf]])
    a, b, width = ends[target] - score, ends[target + 1] - score, ends[target + 1] - ends[target]
    inner = weight / np.expm1(width)
    slopes = np.zeros((len(score), len(ends)))
    row = np.arange(len(score))
    slopes[row, target + 1] = -weight * sigmoid(-b) - inner
    slopes[row, target] = weight * sigmoid(a) + inner
    return slopes[:, 1:-1]


def numbered(clusters, rows) -> np.ndarray:
    """The cluster of each row as a number from 0; refuses fewer than two."""
    clusters = np.asarray(clusters)
    if clusters.shape != (rows,):
        raise ValueError(f"inference: clusters are one name per row, ({rows},); they are {shape(clusters)}.")
    names, index = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        raise DataError(
            "all rows are of one cluster, and the spread between clusters needs two.",
            field="clusters",
            fix="covariance='robust' takes each row for itself.",
        )
    return index
