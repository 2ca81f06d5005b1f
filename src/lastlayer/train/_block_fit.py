"""A linear classifier of rows that are read in blocks: the solvers of rows in memory, whose sums go over blocks."""

import functools
import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from lastlayer._check import DataError
from lastlayer.parallel import single_products
from lastlayer.train import _block_scan, _encode, _newton, _whitened
from lastlayer.train._objective import Frame, Objective, shares
from lastlayer.train._passes import Rows, Sums
from lastlayer.train._problem import Fit, Penalty, Problem
from lastlayer.train._solve import NEWTON, parameters
from lastlayer.train.blocks import Block, Blocks
from lastlayer.train.inference import feature_names
from lastlayer.train.linear_classifier import warn_unless_converged
from lastlayer.train.ranks import Passes
from lastlayer.train.separation import refuse_separated

BEGUN = 1e-3, 200  # gradient and passes of the fit of a sample in whitened variables


def fit(model, blocks: Blocks, processes, group):
    """What `fit_blocks` does."""
    model._refuse_settings()
    began = time.perf_counter()
    plain = clone(model)
    with Passes(blocks, processes, group) as passes:
        seen = passes.total(functools.partial(_block_scan.look, plain))
        coding = Coding.of(plain, seen)
        sample = coding.sampled(seen)
        start = model._start(coding.target, sample)
        fitted = solve(passes, coding, sample, start, model.tol, model.max_iter)
    model.n_features_in_ = int(seen.width)
    if len(seen.names):
        model.feature_names_in_ = seen.names.astype(object)
    elif hasattr(model, "feature_names_in_"):
        del model.feature_names_in_
    seconds = time.perf_counter() - began
    certificate = replace(fitted.certificate, passes=fitted.certificate.passes + 1, seconds=seconds)
    if certificate.escapes:
        if seen.sample.every == 1:
            refuse_separated(sample, feature_names(model), [str(name) for name in coding.target.classes])
        raise DataError(
            "the classes can be separated: without a penalty the coefficients are infinite.",
            field="target",
            fix="a penalty, C=1.0; train.separation names the columns of rows that fit into memory.",
        )
    warn_unless_converged(certificate)
    return model._keep(fitted._replace(certificate=certificate), coding.target, coding.factors)


class Coding(NamedTuple):
    """How rows become a `Problem`: what all of them together decide."""

    model: Any
    target: _encode.Target  # of one row of each class, or of the share of each label
    weight: np.ndarray  # of those rows
    factors: np.ndarray
    penalty: Penalty
    dtype: np.dtype

    @classmethod
    def of(cls, model, seen: _block_scan.Seen):
        if not seen.counted:
            raise DataError(
                "every weight is zero.", field="sample_weight", fix="give at least one row a weight above 0."
            )
        if seen.labels > 1:
            target = _encode.Target((seen.counts / seen.counted)[None], seen.classes, "multilabel")
            weight = np.array([seen.weight])
        else:
            _encode.refuse_counts(seen.classes, seen.rows)
            target = _encode.classified(seen.classes, np.arange(len(seen.classes)), model.ordinal)
            weight = seen.sums
        penalty = model._penalty(seen.width)
        if not penalty.smooth:
            raise ValueError(
                "fit_blocks: an l1 penalty or bounds need all rows in memory; take l1_ratio=0 without bounds, or "
                "LinearClassifier.fit on a memory map."
            )
        factors = _encode.class_weights(model.class_weight, target, weight)
        return cls(model, target, weight, factors, penalty, np.dtype(str(seen.dtype)))

    def problem(self, block: Block) -> Problem:
        """The rows of a block, which `look` has seen."""
        features: Any = block.features
        ready = type(features) is np.ndarray or (hasattr(features, "indptr") and features.format == "csr")
        if not ready or features.dtype not in (np.float32, np.float64):
            features, _ = _block_scan.checked(self.model, block)
        features = features.astype(self.dtype, copy=False)
        weight = _block_scan.weights(block.weight, features.shape[0])
        return self._made(features, self._coded(features, block.target), weight, block.offset)

    def sampled(self, seen: _block_scan.Seen) -> Problem:
        """The rows of the sample."""
        sample = seen.sample
        features = sample.features(seen.width).astype(self.dtype, copy=False)
        offset = sample.offset if seen.offsets else None
        return self._made(features, self._coded(features, sample.target), sample.weight, offset)

    def summary(self, problem: Problem) -> Problem:
        """A row for each class, with its weight; ``problem`` says what is the same of all rows."""
        weight = self.weight if self.model.class_weight is None else self.weight * self.factors
        return replace(problem, target=self.target.values, weight=weight)

    def _made(self, features, target, weight, offset):
        return _encode.weighed(self.model, features, target, weight, offset, self.penalty, self.factors)

    def _coded(self, features, y):
        y = _encode.labels(features, y)
        if self.target.family == "multilabel":
            return _encode.indicators(y, False)
        classes, index = _encode.classes_of(y)
        place = np.searchsorted(self.target.classes, classes)
        return _encode.classified(self.target.classes, place[index], self.model.ordinal)


def newton_sums(coding: Coding, frame: Frame, block: Block, parameters):
    """The state of a pass of Newton's method."""
    return Objective(coding.problem(block), frame).sums(parameters)


class Slopes(NamedTuple):
    """The state of a pass of L-BFGS."""

    loss: float
    gradient: np.ndarray
    bend: np.ndarray  # sums of w p (1 - p)
    weight: float

    def plus(self, other):
        return Slopes(*(a + b for a, b in zip(self, other, strict=True)))


def slope_sums(coding: Coding, centre, block: Block, table):
    """The state of a pass of L-BFGS, in float64."""
    rows = Rows(coding.problem(block), centre)
    if not rows.total:
        return Slopes(0.0, np.zeros(table.shape), np.zeros(rows.outputs), 0.0)
    sums = rows.sums(table)
    return Slopes(sums.loss, sums.gradient.astype(np.float64), sums.bend * rows.total, rows.total)


class BlockObjective(Objective):
    """F of the rows of all blocks; its problem is a sample of them."""

    def __init__(self, passes: Passes, coding: Coding, sample: Problem):
        super().__init__(sample, Frame.of(sample))
        self.weight = float(coding.summary(sample).weight.sum())
        self._total = functools.partial(passes.total, functools.partial(newton_sums, coding, self.frame))

    def sums(self, parameters):
        return self._total(parameters)


class BlockRows:
    """`Rows` of all blocks."""

    def __init__(self, passes: Passes, coding: Coding, centre, sample: Rows, total):
        self.width, self.outputs, self.dtype, self.total = sample.width, sample.outputs, sample.dtype, total
        self._total = functools.partial(passes.total, functools.partial(slope_sums, coding, centre))

    def sums(self, table) -> Sums:
        """Loss, gradient and mean curvature at ``table``."""
        found = self._total(table)
        return Sums(found.loss, found.gradient.astype(self.dtype), found.bend / self.total)


class BlockFunction(_whitened.Function):
    """F of the rows of all blocks, with the curvature of a sample."""

    def __init__(self, passes: Passes, coding: Coding, sample: Problem):
        super().__init__(sample)
        total = float(coding.summary(sample).weight.sum())
        self.rows: Any = BlockRows(passes, coding, self.moments.centre, self.rows, total)


def solve(passes: Passes, coding: Coding, sample: Problem, start, tol, most) -> Fit:
    """The minimum of F over all blocks, begun with the fit of the sample where nothing else is."""
    began = time.perf_counter()
    few = parameters(sample) <= NEWTON and sample.family != "multilabel"
    if sample.family == "ordinal" and not few:
        raise ValueError(
            f"fit_blocks: ordinal classes take at most {NEWTON} features; these are {sample.features.shape[1]:,}. "
            "Leave features out, or fit them in memory."
        )
    with single_products():
        if few:
            objective = BlockObjective(passes, coding, sample)
            if start is None:
                at = _newton.near(objective, sample, objective.inward(*shares(coding.summary(sample))))
            else:
                at = objective.inward(*start)
            return _newton.descended(objective, at, tol, most, began)
        function = BlockFunction(passes, coding, sample)
        if start is None:
            start = _sample_fit(sample, function.rows.total)
        return _whitened.descended(function, start, tol, most, began)


def _sample_fit(sample, total):
    """Coefficients and intercepts of the sample with its share of the penalty, or None where it has none."""
    share = sample.weight.sum() / total
    if not share:
        return None
    less = replace(sample, penalty=replace(sample.penalty, l2=sample.penalty.l2 * share))
    fit = _whitened.solve(less, None, *BEGUN)
    return (fit.coef, fit.intercept) if fit.certificate.converged else None
