"""What a user gives as ``cv``, as the rows that each fold learns from and those it is tested on."""

from typing import Any, NamedTuple

import numpy as np

from lastlayer._check import DataError, shape
from lastlayer.outputs import Outputs


class Fold(NamedTuple):
    """Indices of rows."""

    train: np.ndarray
    test: np.ndarray


def splits(function, cv: Any, y, groups=None) -> list[Fold]:
    """The folds of ``cv``: a number of them, the fold of each row, or one of scikit-learn's splitters.

    A number stratifies classes, as scikit-learn does, and every class then needs as many rows.
    """
    from sklearn.model_selection import check_cv

    y = np.asarray(y)
    codes = _codes(function, cv, len(y))
    if codes is not None:
        return [Fold(np.flatnonzero(codes != code), np.flatnonzero(codes == code)) for code in np.unique(codes)]
    if isinstance(cv, int | np.integer):
        if cv < 2:
            raise ValueError(f"{function}: cv is at least 2 folds; it is {cv}.")
        _refuse_rare(function, y, int(cv))
    check: Any = check_cv
    splitter = check(cv, y, classifier=True)
    return [Fold(np.asarray(train), np.asarray(test)) for train, test in splitter.split(np.zeros(len(y)), y, groups)]


def refuse_unlearnt(folds: list[Fold], y, weight=None):
    """Every fold has to learn from rows of every class, and of both sides of every label."""
    several = y.ndim > 1 and y.shape[1] > 1
    classes, index = (None, y) if several else np.unique(y.ravel(), return_inverse=True)
    for k, fold in enumerate(folds):
        train = fold.train if weight is None else fold.train[weight[fold.train] > 0]
        if classes is None:
            bad = np.flatnonzero((index[train] == index[train[:1]]).all(0))
            what = [f"label {j} is the same in every row of" for j in bad[:1]]
        else:
            bad = np.flatnonzero(np.bincount(index[train], minlength=len(classes)) == 0)
            what = [f"class {classes.tolist()[j]!r} has no row in" for j in bad[:1]]
        if what:
            raise DataError(
                f"{what[0]} what fold {k} learns from.",
                field="cv",
                fix="give folds that each leave rows of every class: cv=5 stratifies classes.",
            )


def joined(folds: list[Fold], parts: list[Outputs], rows, source) -> Outputs:
    """What was said of the test rows of each fold, in the order of all the rows, with the fold as a group."""
    code, first = _of_each_row(folds, rows), parts[0]
    order = np.argsort(np.concatenate([fold.test for fold in folds]))

    def together(name):
        columns = [getattr(part, name) for part in parts]
        return None if columns[0] is None else np.concatenate(columns)[order]

    return Outputs(
        together("scores"),
        first.kind,
        target=together("target"),
        classes=first.classes,
        groups={"fold": code},
        weight=together("weight"),
        task=first.task,
        source=source,
    )


def _of_each_row(folds: list[Fold], rows) -> np.ndarray:
    """The fold that each row is tested in; refuses rows that are tested in none, or in several."""
    times, code = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for k, fold in enumerate(folds):
        np.add.at(times, fold.test, 1)
        code[fold.test] = k
    for bad, what in ((times == 0, "in no test fold"), (times > 1, "in several test folds")):
        if bad.any():
            raise DataError(
                f"{bad.sum()} of {rows} rows are {what}, so which fit has not seen them is not said.",
                field="cv",
                rows=np.flatnonzero(bad),
                fix="give a cv that tests every row once: a number of folds, or the fold of each row.",
            )
    return code


def _codes(function, cv, rows):
    """The fold of each row, if that is what ``cv`` is."""
    if cv is None or isinstance(cv, int | np.integer) or hasattr(cv, "split") or not hasattr(cv, "__len__"):
        return None
    if len(cv) and hasattr(cv[0], "__len__"):  # pairs of indices
        return None
    codes = np.asarray(cv)
    if codes.shape != (rows,):
        raise DataError(
            f"{function}: the fold of each row is {shape(codes)}, and there are {rows} rows.",
            field="cv",
            fix="give one code per row, or a number of folds.",
        )
    if len(np.unique(codes)) < 2:
        raise DataError(
            f"{function}: every row is in the same fold, so that nothing is left to learn from.",
            field="cv",
            fix="give at least two different codes.",
        )
    return codes


def _refuse_rare(function, y, cv):
    """A class of fewer rows than folds is missing where it should be tested or learnt."""
    if cv > len(y):
        raise DataError(f"{function}: {cv} folds of {len(y)} rows.", field="cv", fix=f"cv={len(y)} at most.")
    if y.ndim > 1 and y.shape[1] > 1:
        return
    classes, counts = np.unique(y.ravel(), return_counts=True)
    rare = int(counts.argmin())
    if counts[rare] >= cv:
        return
    name, least = classes.tolist()[rare], int(counts[rare])
    some = f"{least} row{'s' if least > 1 else ''}, and each of {cv} folds needs one"
    possible = f"the largest possible number of folds is {least}" if least > 1 else "no number of folds is possible"
    raise DataError(
        f"{function}: class {name!r} has {some}: {possible}.",
        field="target",
        rows=np.flatnonzero(y.ravel() == classes[rare]),
        fix=f"cv={least}, or more rows of that class." if least > 1 else "leave the class out, or add rows of it.",
    )
