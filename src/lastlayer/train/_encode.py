"""What a user gives a linear classifier, checked, as the arrays of a `Problem`; features stay as they are."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d, validate_data

from lastlayer._check import DataError, is_number, shape
from lastlayer.parallel import over_ranges
from lastlayer.train._problem import Family, Penalty, Problem

RANGE = 2**15  # rows of one range of the pool
FEW = 2**16  # labels that are integers closer together than this are counted, not sorted
FIRST = 1000  # rows whose labels are likely all the labels there are


class Target(NamedTuple):
    """Labels as numbers: an index into ``classes`` (float64 0 and 1 where there are two), or 0 and 1 of each label."""

    values: np.ndarray
    classes: np.ndarray
    family: Family


def features(model, X, reset) -> Any:
    """Rows as a float32 or float64 table, dense in any order or CSR, all finite."""
    try:
        X = validate_data(
            model, X, reset=reset, accept_sparse="csr", dtype=[np.float64, np.float32], ensure_all_finite=False
        )
    except ValueError as error:
        _refuse_text(X, error)
        raise
    refuse_nonfinite(model, X)
    return X


def _refuse_text(X, error):
    """Name the first entry of a table that is text and no number."""
    if "convert" not in str(error) or np.ndim(X) != 2:
        return
    named = hasattr(X, "columns")
    for j in range(np.shape(X)[1]):
        column = np.asarray(X.iloc[:, j] if named else [row[j] for row in X], dtype=object)
        for i, value in enumerate(column):
            if isinstance(value, str) and not is_number(value):
                raise DataError(
                    f"text in a numeric column: {value!r}.",
                    field=str(X.columns[j]) if named else f"column {j}",
                    rows=[i],
                    fix="drop the column, or turn its categories into columns of 0 and 1 (`lastlayer train` does).",
                ) from error


def refuse_nonfinite(model, X):
    values = X.data if hasattr(X, "toarray") else X

    def suspect(a, b):
        with np.errstate(all="ignore"):  # a sum may overflow; then its entries are looked at
            return a if not np.isfinite(values[a:b].sum(dtype=np.float64)) else None

    for a in over_ranges(suspect, len(values), RANGE):
        if a is None or np.isfinite(values[a : a + RANGE]).all():
            continue
        at = a + np.argwhere(~np.isfinite(values[a : a + RANGE]))[0]
        row = int(np.searchsorted(X.indptr, at[0], side="right")) - 1 if values.ndim == 1 else int(at[0])
        column = X.indices[at[0]] if values.ndim == 1 else at[1] - a
        name = getattr(model, "feature_names_in_", None)
        value = values[tuple(at if values.ndim == 1 else (at[0], at[1] - a))]
        raise DataError(
            f"Input X contains {'NaN' if np.isnan(value) else 'infinity'}, which {type(model).__name__} has no place "
            f"for.",
            field=f"column {column}" if name is None else str(name[column]),
            rows=[row],
            fix="fill the gaps: sklearn.impute.SimpleImputer(add_indicator=True), or HistGradientBoostingClassifier, "
            "which takes NaN, and train.logits_of.",
        )


def target(X, y, ordinal=False) -> Target:
    """The labels of the rows, by their shape: ``(n,)`` classes, ``(n, labels)`` 0 and 1."""
    y = labels(X, y)
    if y.ndim == 2:
        return indicators(y, ordinal)
    classes, index = classes_of(y)
    refuse_counts(classes, len(y))
    return classified(classes, index, ordinal)


def classified(classes, index, ordinal) -> Target:
    """Rows of exclusive ``classes``, each of which has its ``index``."""
    if ordinal:
        return Target(index, classes, "ordinal")
    return Target(index, classes, "multinomial") if len(classes) > 2 else Target(index * 1.0, classes, "binary")


def labels(X, y) -> np.ndarray:
    """What labels may be: one of each row, or a table."""
    if y is None:
        raise ValueError("LinearClassifier: fit requires y to be passed, but the target y is None.")
    y = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
    check_consistent_length(X, y)
    if y.dtype.kind == "f":
        assert_all_finite(y, input_name="y")
    if y.ndim == 2 and y.shape[1] > 1:
        return y
    y = column_or_1d(y, warn=True)
    _refuse_continuous(y)
    return y


def indicators(y, ordinal) -> Target:
    if ordinal:
        raise ValueError(f"LinearClassifier: ordinal classes are one column; y is {shape(y)}.")
    if y.dtype.kind not in "biuf" or not ((y == 0) | (y == 1)).all():
        raise ValueError(
            f"Unknown label type: y is {shape(y)}, which says several labels a row, so its entries are 0 and 1."
        )
    return Target(y.astype(np.float64), np.arange(y.shape[1]), "multilabel")


def _refuse_continuous(y):
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        raise ValueError(
            "Unknown label type: continuous. A classifier's target is classes; these are numbers such as "
            f"{y[y != np.floor(y)][0]:g}. Cut them into classes, or fit a regression."
        )
    if y.dtype.kind == "O":
        missing = np.array([value is None or value != value for value in y])
        if missing.any():
            raise DataError(
                "the target is missing.", field="target", rows=np.flatnonzero(missing), fix="leave those rows out."
            )
    if y.dtype.kind not in "biufOUST":
        raise ValueError(f"Unknown label type: {y.dtype}. Classes are integers, booleans or names.")


def classes_of(y):
    """The different labels, sorted, and the index of each row among them."""
    if y.dtype.kind in "biu" and int(y.max()) - int(y.min()) < FEW:
        low = int(y.min())
        apart = y.astype(np.int64) - low
        present = np.flatnonzero(np.bincount(apart))
        place = np.zeros(present[-1] + 1, np.int64)
        place[present] = np.arange(len(present))
        return (present + low).astype(y.dtype), place[apart]
    try:
        few = np.unique(y[:FIRST])
        if len(few) == 2:
            second = y == few[1]
            if (second | (y == few[0])).all():
                return few, second.astype(np.int64)
        index = np.minimum(np.searchsorted(few, y), len(few) - 1)
        if (few[index] == y).all():
            return few, index
        return np.unique(y, return_inverse=True)
    except TypeError as error:
        raise DataError(
            "the target mixes labels that have no common order, such as text and numbers.",
            field="target",
            fix="give names alone: y.astype(str).",
        ) from error


def refuse_counts(classes, rows):
    if len(classes) == 1:
        raise DataError(
            f"the target is constant: every row is of one class, {classes.tolist()[0]!r}, and a classifier needs two.",
            field="target",
            fix="check that the right column is the target, and that the rows were not filtered by it.",
        )
    if len(classes) == rows and rows > 2:
        raise DataError(
            f"there are as many classes as rows, {rows}: no class has a second row to learn from.",
            field="target",
            fix="the target looks like an identifier or a measurement; give one that repeats.",
        )


def weights(sample_weight, rows) -> np.ndarray:
    """One finite number of at least 0 for each row, 1 by default."""
    if sample_weight is None:
        return np.ones(rows)
    weight = np.asarray(sample_weight, np.float64)
    weight = np.full(rows, float(weight)) if weight.ndim == 0 else weight
    if weight.shape != (rows,):
        raise ValueError(f"LinearClassifier: sample_weight is one number per row, ({rows},); it is {shape(weight)}.")
    bad = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(bad):
        raise DataError(
            "a weight is a finite number of at least 0.", field="sample_weight", rows=bad, fix="0 leaves a row out."
        )
    if not weight.any():
        raise DataError("every weight is zero.", field="sample_weight", fix="give at least one row a weight above 0.")
    return weight


def class_weights(class_weight, target: Target, weight) -> np.ndarray:
    """The factor of each class, 1 by default; refuses a class without any weight."""
    if target.family == "multilabel":
        if class_weight is not None:
            raise ValueError("LinearClassifier: class_weight is for classes that exclude each other, not for labels.")
        _refuse_constant(target.values, weight)
        return np.ones(0)
    sums = np.bincount(target.values.astype(np.int64), weight, len(target.classes))
    if not sums.all():
        raise DataError(
            f"every row of class {target.classes[sums == 0].tolist()[0]!r} has weight zero.",
            field="sample_weight",
            fix="leave those rows out, and the class with them.",
        )
    if class_weight is None:
        return np.ones(len(sums))
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"LinearClassifier: class_weight is None, 'balanced' or a dict, not {class_weight!r}.")
        return weight.sum() / (len(sums) * sums)
    classes = target.classes.tolist()
    unknown = [name for name in class_weight if name not in classes]
    if unknown:
        raise ValueError(f"LinearClassifier: class_weight names {unknown[0]!r}; the classes are {classes}.")
    factors = np.array([float(class_weight.get(name, 1.0)) for name in classes])
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise ValueError(f"LinearClassifier: class weights are finite and above 0; they are {class_weight}.")
    return factors


def _refuse_constant(labels, weight):
    share = labels[weight > 0].mean(0)
    constant = np.flatnonzero((share == 0) | (share == 1))
    if len(constant):
        raise DataError(
            f"label {constant[0]} is {share[constant[0]]:.0f} in every row, and a classifier needs two sides "
            f"({len(constant)} of {labels.shape[1]} labels).",
            field="target",
            fix="leave those labels out: y[:, (y.mean(0) > 0) & (y.mean(0) < 1)].",
        )


def offsets(offset, rows, outputs) -> np.ndarray | None:
    """Logits that come on top: ``(n,)`` for one output, ``(n, outputs)`` for several."""
    if offset is None:
        return None
    offset = np.asarray(offset, np.float64)
    want = (rows,) if outputs == 1 else (rows, outputs)
    if offset.shape != want:
        raise ValueError(
            f"LinearClassifier: offset is one logit per row and output, ({', '.join(map(str, want))}); "
            f"it is {shape(offset)}."
        )
    bad = np.flatnonzero(~np.isfinite(offset).reshape(rows, -1).all(1))
    if len(bad):
        raise DataError(
            "an offset is a finite logit.", field="offset", rows=bad, fix="a prior of 0 or 1 leaves nothing to learn."
        )
    return offset


def penalty(C, l1_ratio, penalty_factor, low, high, width) -> Penalty:
    """scikit-learn's C and l1_ratio as a penalty of each feature, and the bounds."""
    if not C > 0:
        raise ValueError(f"LinearClassifier: C is a number above 0, or np.inf for no penalty; it is {C!r}.")
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"LinearClassifier: l1_ratio is between 0 (ridge) and 1 (lasso); it is {l1_ratio!r}.")
    factor = np.ones(width) if penalty_factor is None else _column("penalty_factor", penalty_factor, width)
    if not (np.isfinite(factor) & (factor >= 0)).all():
        raise ValueError("LinearClassifier: a penalty_factor is finite and at least 0 (0: without a penalty).")
    low, high = (None if v is None else _column(n, v, width) for n, v in (("low", low), ("high", high)))
    low = None if low is None or (low == -np.inf).all() else low
    high = None if high is None or (high == np.inf).all() else high
    below, above = (np.broadcast_to(e if v is None else v, width) for e, v in ((-np.inf, low), (np.inf, high)))
    if not (below <= above).all():  # nan too
        j = np.flatnonzero(~(below <= above))[0]
        raise ValueError(f"LinearClassifier: low <= high; for feature {j} they are {below[j]} and {above[j]}.")
    return Penalty(factor * ((1 - l1_ratio) / C), factor * (l1_ratio / C), low, high)


def _column(name, values, width):
    values = np.asarray(values, np.float64)
    if values.shape not in ((), (width,)):
        raise ValueError(f"LinearClassifier: {name} is a number, or one per feature ({width},); it is {shape(values)}.")
    return np.broadcast_to(values, width).copy()


def problem(model, X, target: Target, sample_weight, offset, penalty: Penalty) -> tuple[Problem, np.ndarray]:
    """What `LinearClassifier.fit` minimises on encoded rows, and the factors of ``class_weight`` in its weights."""
    weight = weights(sample_weight, X.shape[0])
    factors = class_weights(model.class_weight, target, weight)
    return weighed(model, X, target, weight, offset, penalty, factors), factors


def weighed(model, X, target: Target, weight, offset, penalty: Penalty, factors) -> Problem:
    """The problem of rows whose classes weigh ``factors`` besides."""
    outputs = {"binary": 1, "ordinal": 1}.get(target.family, len(target.classes))
    return Problem(
        features=X,
        target=target.values,
        weight=weight if model.class_weight is None else weight * factors[target.values.astype(np.int64)],
        offset=offsets(offset, X.shape[0], outputs),
        family=target.family,
        outputs=outputs,
        intercept=bool(model.fit_intercept),
        penalty=penalty,
    )


def prior_shift(model, target: Target, factors):
    """What the weights of the classes put on the intercepts, which `LinearClassifier` takes off for the population."""
    if model.class_weight is None or model.prior != "population" or not model.fit_intercept:
        return 0.0
    logs = np.log(factors)
    return logs[1:] - logs[0] if target.family == "binary" else logs - logs.mean()
