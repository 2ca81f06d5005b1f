"""Whether features separate classes, so that a fit without a penalty has no finite coefficients, and which do."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lastlayer._check import DataError
from lastlayer.train._problem import Penalty, Problem

FARTHEST = 1e5  # a coefficient of standardised features: a gap that is less than this part of a deviation is none
REACHED = 0.5  # of a margin of 1
TOOK_PART = 1e-6  # of the largest coefficient
ROUNDING = 1e-9  # of standardised features
SOME = 1000  # gains to begin with
LARGEST = 2 * 10**7  # entries of a table that is still searched when a fit is refused


@dataclass(frozen=True, eq=False)
class Separation:
    """``kind`` is "none", "quasi-complete" (some rows are at the border) or "complete".

    ``columns`` are those that separate, with ``coef`` ``(outputs, features)`` the direction: along it no row's
    likelihood falls, and that of ``rows`` rises for ever. Of several directions it is one that few
    columns take part in. ``outputs`` are the classes or labels concerned.
    """

    kind: str
    columns: tuple[str, ...]
    outputs: tuple[str, ...]
    coef: np.ndarray
    rows: np.ndarray

    def __bool__(self):
        return self.kind != "none"

    def __str__(self):
        if not self:
            return "no columns separate the classes: the coefficients are finite."
        from lastlayer.train._covariance import listed

        what = "all rows" if self.kind == "complete" else f"{np.count_nonzero(self.rows)} of {len(self.rows)} rows"
        which = f" of {listed(self.outputs)}" if self.outputs else ""
        return (
            f"{listed(self.columns) or 'the intercept'} {'separate' if len(self.columns) > 1 else 'separates'} {what}"
            f"{which} without an error ({self.kind} separation), so that without a penalty the coefficients are "
            "infinite."
        )


def separation(X, y, *, ordinal=False, fit_intercept=True) -> Separation:
    """Whether linear functions of the columns separate classes, and which columns do (Konis 2007).

        maximise sum_i t_i,   t_i <= x_i b,   0 <= t_i <= 1

    over directions b, where x_i b is what the log-odds of row i's own class gain along it, against each other class:
    t is 1 for every row that some direction separates, and 0 for the rest. Classes are separated completely if it is 1
    for all of them. More programs of this kind find few columns that do it alone. ``y`` is as
    `LinearClassifier` takes it; labels are looked at one by one. Features are standardised: units change nothing, and
    gaps below 1e-5 of a column's deviation are not seen.

    >>> X = np.array([[1.0, 0.0], [2.0, 0.0], [1.5, 0.0], [1.2, 1.0], [1.9, 1.0]])
    >>> found = separation(X, ["no", "yes", "no", "yes", "yes"])
    >>> found.kind, found.columns
    ('complete', ('x0', 'x1'))
    """
    from sklearn.base import BaseEstimator

    from lastlayer.train import _encode
    from lastlayer.train.inference import feature_names

    seen = BaseEstimator()
    features = _encode.features(seen, X, reset=True)
    target = _encode.target(features, y, ordinal)
    width = features.shape[1]
    problem = Problem(
        features=features,
        target=target.values,
        weight=np.ones(features.shape[0]),
        offset=None,
        family=target.family,
        outputs={"binary": 1, "ordinal": 1}.get(target.family, len(target.classes)),
        intercept=bool(fit_intercept),
        penalty=Penalty(np.zeros(width), np.zeros(width)),
    )
    return separated(problem, feature_names(seen), [str(name) for name in target.classes])


def separated(problem: Problem, names, classes) -> Separation:
    """`separation` of a problem: of the features without a penalty, towards the sides that no bound is on.

    Rows of weight 0 are left out.
    """
    used = np.flatnonzero(problem.weight > 0)
    if problem.family == "multilabel":
        labels = [
            _direction(problem, used, problem.target[used, k].astype(np.int64), 2) for k in range(problem.outputs)
        ]
        coef = np.concatenate([coef for coef, _ in labels])
        reached = np.stack([rows for _, rows in labels], axis=1)
    else:
        count = len(classes)
        coef, rows = _direction(problem, used, problem.target[used].astype(np.int64), count)
        reached = rows[:, None]
    share = np.abs(coef).max(0)
    taking = share > TOOK_PART * share.max(initial=0.0)
    outputs = [classes[k] for k in np.flatnonzero(np.abs(coef).max(1) > 0)] if len(coef) > 1 else []
    rows = np.zeros(len(problem.weight), bool)
    rows[used] = reached.any(1)
    kind = "none" if not reached.any() else "complete" if reached.all(0).any() else "quasi-complete"
    chosen = tuple(str(name) for name, takes in zip(names, taking, strict=True) if takes)
    return Separation(kind, chosen, tuple(outputs), coef, rows)


def searchable(problem: Problem) -> bool:
    """Whether it is small enough to look for separating columns while a fit waits."""
    return problem.features.shape[0] * problem.features.shape[1] * problem.outputs <= LARGEST


def refuse_separated(problem: Problem, names, classes):
    """The complaint about a fit whose minimum is at infinity: it names the columns that separate."""
    found = separated(problem, names, classes) if searchable(problem) else None
    raise DataError(
        str(found)
        if found
        else "some features separate the classes, so that without a penalty their coefficients are infinite.",
        field="target",
        fix="a penalty, C=1.0; or train.FirthClassifier, which stays finite; or leave the separating columns out.",
    )


def _direction(problem, used, target, count):
    """The direction in the units of the features, ``(outputs, features)``, and which rows gain by it."""
    from lastlayer.train._objective import Frame, design

    frame, width = Frame.of(problem), problem.features.shape[1]
    ordinal, up, down = problem.family == "ordinal", *open_sides(problem)
    # bounds are on the coefficients of every class, so that none of them can be taken for 0
    first = int(count == 2 or bool((up & down)[up | down].all()))
    table = design(problem.features[used], frame, problem.intercept and not ordinal)
    gains, row, blocks = _ordinal_gains(table, target, count) if ordinal else _gains(table, target, count, first)
    groups = np.full(gains.shape[1], -1)
    groups[: width if ordinal else None].reshape(blocks, -1)[:, :width] = np.arange(width)
    up, down = (np.where(groups < 0, True, side[groups]) for side in (up, down))
    kept = up | down
    sides = 1.0 * up[kept] - down[kept]  # 1 and -1 where a coefficient may only rise or fall
    gains, groups = gains[:, kept], groups[kept]
    reached = _reached(gains, sides)
    rows = np.zeros(len(used), bool)
    rows[row[reached]] = True
    best = np.zeros(len(kept))
    if reached.any():
        best[kept] = _least(gains, reached, groups, sides)
    coef = best[:width][None] if ordinal else best.reshape(blocks, -1)[:, :width]
    if first and count > 2 and not ordinal:
        coef = np.concatenate([np.zeros((1, width)), coef])
    return coef / frame.scale, rows


def open_to_infinity(problem: Problem) -> bool:
    """Whether neither penalty nor bounds keep all coefficients finite."""
    return any(side.any() for side in open_sides(problem))


def open_sides(problem):
    """Which coefficients may rise for ever, and which fall."""
    penalty = problem.penalty
    free = (penalty.l1 == 0) & (penalty.l2 == 0)
    return (free if end is None else free & np.isinf(end) for end in (penalty.high, penalty.low))


def _gains(table, target, count, first) -> tuple[Any, np.ndarray, int]:
    """Of each row and each other class, what its own class gains; coefficients of classes before ``first`` are 0."""
    from scipy.sparse import csr_array, vstack

    width = table.shape[1]
    parts, index = [], []
    for other in range(count):
        chosen = np.flatnonzero(target != other)
        part, own = table[chosen], target[chosen]
        places, signs = [], []
        for classes, sign in ((own, 1.0), (np.full(len(own), other), -1.0)):
            at = np.flatnonzero(classes >= first)
            places.append((np.repeat(at, width), ((classes[at] - first)[:, None] * width + np.arange(width)).ravel()))
            signs.append((sign * part[at]).ravel())
        row, column = (np.concatenate(pair) for pair in zip(*places, strict=True))
        parts.append(csr_array((np.concatenate(signs), (row, column)), shape=(len(own), (count - first) * width)))
        index.append(chosen)
    return vstack(parts, format="csr"), np.concatenate(index), count - first


def _ordinal_gains(table, target, count) -> tuple[Any, np.ndarray, int]:
    """Of each row, by how much its score moves above the threshold below it, and below the one above."""
    from scipy.sparse import csr_array

    steps = np.eye(count - 1)
    above, below = np.flatnonzero(target > 0), np.flatnonzero(target < count - 1)
    gains = np.concatenate(
        [
            np.concatenate([table[above], -steps[target[above] - 1]], axis=1),
            np.concatenate([-table[below], steps[target[below]]], axis=1),
        ]
    )
    return csr_array(gains), np.concatenate([above, below]), 1


def _reached(gains, sides) -> np.ndarray:
    """Which gains some direction makes positive without making another negative.

    Begun with some of the rows: where those that no direction separates leave no direction over, all is said, and
    otherwise a direction for all rows is one of those that are over, which most rows have no part in.
    """
    from scipy.sparse import csr_array

    found, index, most = np.zeros(gains.shape[0], bool), np.arange(gains.shape[0]), SOME
    held = np.flatnonzero(sides)
    cone = csr_array((sides[held], (np.arange(len(held)), held)), shape=(len(held), len(sides)))
    while len(index):
        some = index[:: -(-len(index) // most)]
        reached = _program(gains[some], cone)
        if len(some) == len(index):
            found[some] = reached
            break
        if not reached.all():
            over = _over(gains[some[~reached]])
            gains, cone = gains @ over, cone @ over
            taking = np.abs(gains[index]).max(1, initial=0.0) > ROUNDING
            index = index[taking.ravel()]
        most *= 4
    return found


def _over(gains):
    """The directions along which none of the gains moves."""
    from scipy.linalg import null_space

    table = gains.toarray() if hasattr(gains, "toarray") else gains
    return null_space(np.linalg.qr(table, mode="r"), rcond=ROUNDING)


def _program(gains, cone):
    from scipy.sparse import csr_array, eye_array, hstack, vstack

    count, width = gains.shape
    bounds = np.array([(-FARTHEST, FARTHEST)] * width + [(0.0, 1.0)] * count)
    cost = np.concatenate([np.zeros(width), -np.ones(count)])
    table = hstack([csr_array(-gains), eye_array(count)], format="csr")
    held = hstack([csr_array(-cone), csr_array((cone.shape[0], count))])
    found = _solved(cost, bounds, A_ub=vstack([table, held], format="csr"), b_ub=np.zeros(count + cone.shape[0]))
    if found is None:
        raise RuntimeError("separation: the linear program, which b = 0 solves, has no solution.")
    return found[width:] > REACHED


def _least(gains, reached, groups, sides):
    """A direction along which those gains are at least 1 and no other is below 0, of few columns.

    Columns are ordered by what they take of the direction with the least sum of coefficients; the first of them that
    do it alone are kept. ``groups`` numbers the columns of each entry; intercepts and thresholds, -1, cost nothing.
    """
    best = _of_columns(gains, reached, groups, sides, np.ones(groups.max(initial=-1) + 1, bool))
    if best is None:
        raise RuntimeError("separation: the rows that one program separates another does not; this is a defect.")
    share = np.zeros(groups.max(initial=-1) + 1)
    np.maximum.at(share, groups[groups >= 0], np.abs(best[groups >= 0]))
    order = np.argsort(-share, kind="stable")
    few, enough = 0, int(np.count_nonzero(share > TOOK_PART * share.max(initial=0.0)))
    while few < enough:
        count = (few + enough) // 2
        found = _of_columns(gains, reached, groups, sides, np.isin(np.arange(len(share)), order[:count]))
        if found is None:
            few = count + 1
        else:
            best, enough = found, count
    return best


def _of_columns(gains, reached, groups, sides, allowed):
    """The direction with the least sum of coefficients that uses the allowed columns, or None."""
    from scipy.sparse import csr_array, hstack

    cost = np.tile(np.where(groups < 0, 0.0, 1.0), 2)
    most = np.where((groups < 0) | allowed[groups], FARTHEST, 0.0)
    ends = np.concatenate([np.where(sides >= 0, most, 0.0), np.where(sides <= 0, most, 0.0)])
    bounds = np.column_stack([np.zeros(len(ends)), ends])
    table = csr_array(gains)
    found = _solved(cost, bounds, A_ub=hstack([-table, table], format="csr"), b_ub=-1.0 * reached)
    return None if found is None else found[: len(groups)] - found[len(groups) :]


def _solved(cost, bounds, **constraints):
    """The solution of a linear program, or None where there is none."""
    from scipy.optimize import linprog

    message = ""
    for method in ("highs-ds", "highs-ipm"):  # the simplex is faster, and now and then finds no end
        found = linprog(cost, bounds=bounds, method=method, **constraints)
        if found.status in (0, 2):
            return found.x if found.status == 0 else None
        message = found.message
    raise RuntimeError(f"separation: the linear program ended without an answer ({message}).")
