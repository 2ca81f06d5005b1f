"""A linear classifier of a table: its penalty chosen and its out-of-fold logits made by the same folds."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold

from lastlayer._check import DataError
from lastlayer.outputs import brief
from lastlayer.train._features import Features
from lastlayer.train.linear_classifier import LinearClassifier
from lastlayer.train.separation import LARGEST, separation
from lastlayer.train.table import numbers, parsed, texts
from lastlayer.transform.sigmoid import softplus
from lastlayer.transform.softmax import log_softmax

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)  # C: the strongest first

# Tolerances: what a model of a fold lacks to its minimum is far below what another draw of its rows would change.
FINE, ROUGH = 1e-6, 1e-4


class Labels(NamedTuple):
    """The class of each row as an index into ``classes``."""

    index: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, name, values) -> "Labels":
        """Classes are sorted, as numbers where all of them are."""
        words = texts(values)
        missing = [row for row, word in enumerate(words) if not word]
        if missing:
            raise DataError("the target is missing.", field=name, rows=missing, fix="leave those rows out.")
        try:
            figures = {word: float(word) for word in set(words)}
        except ValueError:
            classes = sorted(set(words))
        else:
            broken = next((word for word, figure in figures.items() if figure % 1 != 0), None)
            if broken is not None:
                raise DataError(
                    f"a target of classes holds numbers such as {broken}.",
                    field=name,
                    fix="name another --target, or cut the numbers into classes.",
                )
            whole = {word: str(_whole(word)) for word in figures}
            words = [whole[word] for word in words]
            classes = sorted(set(words), key=int)
        place = {word: k for k, word in enumerate(classes)}
        return cls(np.array([place[word] for word in words]), tuple(classes))

    def refuse(self, name, folds):
        """What cannot be learnt or cross-validated, in a sentence."""
        rows = len(self.index)
        if len(self.classes) == 1:
            raise DataError(
                f"the target is constant: all {rows:,} rows are {self.classes[0]!r}; a classifier needs two classes.",
                field=name,
                fix="name the right column, and check that the rows were not filtered by it.",
            )
        if len(self.classes) == rows:
            raise DataError(
                f"there are as many classes as rows, {rows}: no class has a second row to learn from.",
                field=name,
                fix="the target looks like an identifier; name a column whose values repeat.",
            )
        counts = np.bincount(self.index)
        rare = int(counts.argmin())
        if counts[rare] == 1:
            others = int((counts == 1).sum()) - 1
            raise DataError(
                f"class {self.classes[rare]!r} has one row, which cannot be learnt from and held out at once"
                + (f" ({others} more classes are like it)." if others else "."),
                field=name,
                rows=np.flatnonzero(self.index == rare),
                fix="leave that row out, or join its class with another.",
            )
        if counts[rare] < folds:
            raise DataError(
                f"class {self.classes[rare]!r} has {counts[rare]} rows, too few for {folds} folds.",
                field=name,
                fix=f"ask for at most {counts[rare]} folds: --cv {counts[rare]}.",
            )


def _whole(word):
    """A number without a fraction, of any length."""
    try:
        return int(word)
    except ValueError:
        return int(float(word))


@dataclass(frozen=True)
class Settings:
    """How to fit: ``penalty`` is scikit-learn's C (inf for none), or None to choose it among `PENALTIES`."""

    penalty: float | None = None
    folds: int = 5
    seed: int = 0
    text: Sequence[str] = ()
    categories: Sequence[str] = ()

    @property
    def tried(self):
        return PENALTIES if self.penalty is None else (self.penalty,)

    @property
    def fits(self):
        """How many models are fitted."""
        return self.folds * len(self.tried) + 1

    def features(self, columns) -> Features:
        """Without a penalty a category is compared with its most frequent level, or it would say everything twice."""
        return Features.fit(columns, self.text, self.categories, reference=self.penalty == np.inf)

    def classifier(self, features: Features, C, tol=FINE):
        return LinearClassifier(C, penalty_factor=features.factors, tol=tol, warm_start=True)


class CrossFit(NamedTuple):
    """The model of all rows, and the logits of each by a model that had not seen it."""

    features: Features
    model: LinearClassifier
    values: np.ndarray  # the features of all rows
    logits: np.ndarray  # out of fold: (n,) of two classes, else (n, classes)
    penalty: float
    tried: tuple[tuple[float, float], ...]  # each C with its mean out-of-fold loss


def cross_fit(
    columns: Mapping[str, np.ndarray],
    labels: Labels,
    weight: np.ndarray | None,
    settings: Settings,
    advance: Callable[[], object] = lambda: None,
) -> CrossFit:
    """Fit every penalty without each fold, and the one of the least out-of-fold loss to all rows.

    What the features take from the rows (medians, levels, terms) is taken from those outside the fold as well.
    """
    rows = len(labels.index)
    shape = (rows,) if len(labels.classes) == 2 else (rows, len(labels.classes))
    logits = {C: np.empty(shape) for C in settings.tried}
    table = parsed({name: v for name, v in columns.items() if name not in settings.text}, settings.categories)
    table |= {name: columns[name] for name in settings.text}
    split = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    for inside, outside in split.split(np.zeros(rows), labels.index):
        seen, unseen = ({name: values[part] for name, values in table.items()} for part in (inside, outside))
        features = settings.features(seen)
        X, held_out = (features.transform(part).values for part in (seen, unseen))
        if features.texts:  # of many terms: what float32 lacks is far below `ROUGH` too
            X, held_out = X.astype(np.float32), held_out.astype(np.float32)
        model = settings.classifier(features, settings.tried[0], ROUGH if features.texts else FINE)
        for C in settings.tried:
            _fit(model.set_params(C=C), features, X, labels.index[inside], None if weight is None else weight[inside])
            logits[C][outside] = model.decision_function(held_out)
            advance()
    tried = tuple((C, mean_loss(z, labels.index, weight)) for C, z in logits.items())
    best = min(tried, key=lambda pair: pair[1])[0]
    features = settings.features(columns)
    values = features.transform(columns).values
    model = _fit(settings.classifier(features, best), features, values, labels.index, weight)
    advance()
    return CrossFit(features, model, values, logits[best], best, tried)


def _fit(model, features, X, index, weight):
    """Fit, or name the columns that separate the classes where there is no minimum without a penalty."""
    try:
        return model.fit(X, index, weight)
    except DataError:
        if model.C < np.inf or X.shape[0] * X.shape[1] * (index.max() + 1) > LARGEST:
            raise
        found = separation(X, index)
        if not found:
            raise
    names = tuple(features.names[int(column.removeprefix("x"))] for column in found.columns)
    raise DataError(
        f"without a penalty coefficients are infinite: the classes are separated by {brief(names)}.",
        fix="give a penalty, --penalty auto, or leave those columns out with --drop.",
    )


def mean_loss(logits, index, weight) -> float:
    """The mean negative log-likelihood of the classes."""
    if logits.ndim == 1:
        losses = softplus(np.where(index == 1, -logits, logits))
    else:
        losses = -log_softmax(logits)[np.arange(len(index)), index]
    return float(np.average(losses, weights=weight))


def weights(name, values) -> np.ndarray:
    """A column of weights: finite numbers of at least 0."""
    found = numbers(name, values)
    bad = np.flatnonzero(~(found >= 0))
    if len(bad):
        raise DataError("a weight is a number of at least 0.", field=name, rows=bad, fix="0 leaves a row out.")
    return found


def named(columns: Mapping[str, np.ndarray], names: Sequence[str], flag):
    """Refuse names that are no columns, with the nearest that is."""
    for name in names:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the columns are {brief(tuple(columns))}."
            raise DataError(f"there is no column {name!r}, which {flag} names.", field="header", fix=hint)
