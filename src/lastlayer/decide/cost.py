"""The cheapest decision: costs of errors and of a review, and the choice that has the least expected cost."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lastlayer._check import DataError, one_of, positive, shape
from lastlayer.decide.choice import Choice, blocks, choose, log_odds_of
from lastlayer.decide.decisions import Decisions
from lastlayer.decide.policy import Policy
from lastlayer.outputs import Outputs, brief
from lastlayer.transform import sigmoid, softmax


@dataclass(frozen=True)
class Cost(Policy, name="cost"):
    """Every error costs ``wrong``, every review ``review``: accept the likeliest class where that is not dearer.

        accept  <=>  wrong * (1 - p) <= review  <=>  log_odds >= log((wrong - review) / review)

    Decided in log-odds, so that it stays exact where p rounds to 1. Where a review costs as much as an error, or more,
    every row is accepted; where it is free, only certain ones (``log_odds = inf``). A row without a class (nan) is
    reviewed. The probabilities must be true for the costs to be: calibrate first.

    >>> Cost(wrong=10, review=1)(Outputs([2.0, -2.5], "logits")).action
    array(['review', 'accept'], dtype='<U6')
    """

    wrong: float
    review: float

    def __post_init__(self):
        positive("Cost", "wrong", self.wrong)
        if not 0 <= self.review < math.inf:
            raise ValueError(f"Cost: review is a finite number of at least 0, not {self.review!r}.")

    @property
    def log_odds(self) -> float:
        """The log-odds from which a row is accepted."""
        if self.wrong <= self.review:
            return -math.inf
        return math.log((self.wrong - self.review) / self.review) if self.review > 0 else math.inf

    def decide(self, outputs: Outputs) -> Decisions:
        choice = choose(outputs)
        accept = choice.log_odds >= self.log_odds
        expected = np.where(accept, self.wrong * sigmoid(-choice.log_odds), float(self.review))
        return Decisions.of(outputs, self, accept, choice, expected)

    def realised_cost(self, index, target):
        return np.where(index == target, 0.0, float(self.wrong)), np.full(len(index), float(self.review))


@dataclass(frozen=True, eq=False)
class CostMatrix(Policy, name="cost_matrix"):
    """Each error has its own cost: choose the class with the least expected cost, or a review where that is cheaper.

        index = argmin_a sum_k p_k costs[k, a],   accept  <=>  that minimum <= review

    ``costs`` is (true class, chosen class), like a confusion matrix: ``costs[k, a]`` is paid for choosing a where k is
    true. Of equally cheap classes the first is chosen. ``review`` is one number, or one per true class, or None: then
    every row that has a class is accepted. Costs are at least 0, so that expected costs are sums of terms of one sign
    and keep their digits in the tails. ``classes`` names the rows and columns; outputs with others are then refused.

    >>> costs = CostMatrix([[0, 1], [20, 0]])  # calling class 1 a 0 is the dear error
    >>> costs(Outputs([-2.0, -4.0], "logits")).index
    array([1, 0])
    """

    costs: Any
    review: Any = None
    classes: Sequence[str] | None = None

    def __post_init__(self):
        costs = _numbers("costs", self.costs)
        if costs.ndim != 2 or costs.shape[0] != costs.shape[1] or not costs.size:
            raise ValueError(f"CostMatrix: costs are (true class, chosen class), K by K; these are {shape(costs)}.")
        if (costs == costs[:, :1]).all():
            raise ValueError(
                "CostMatrix: the columns of costs are all equal: whatever is true, every decision costs the same, so "
                "there is nothing to decide."
            )
        object.__setattr__(self, "costs", costs)
        if self.review is not None:
            review = _numbers("review", self.review)
            if review.shape not in ((), (len(costs),)):
                raise ValueError(
                    f"CostMatrix: review is one number or one per true class ({len(costs)}); this is {shape(review)}."
                )
            object.__setattr__(self, "review", review)
        if self.classes is not None:
            names = tuple(map(str, self.classes))
            if len(names) != len(costs) or len(set(names)) != len(names):
                raise ValueError(f"CostMatrix: {len(costs)} different class names are wanted, not {', '.join(names)}.")
            object.__setattr__(self, "classes", names)

    def __repr__(self):
        review = "" if self.review is None else f", review={self.review.tolist()}"
        return f"CostMatrix({len(self.costs)} classes{review})"

    def decide(self, outputs: Outputs) -> Decisions:
        self._check_classes(outputs)
        index, log_odds = np.empty(len(outputs), np.int64), np.empty(len(outputs))
        least, review = np.empty(len(outputs)), np.full(len(outputs), np.inf)
        for rows, logits in blocks(outputs):
            p = softmax(logits)
            # One sum per class, not a matrix product: BLAS rounds a row differently in blocks of different length, and
            # equally cheap classes would then depend on the neighbours.
            expected = np.stack([(p * column).sum(axis=1) for column in self.costs.T], axis=1)
            decided = ~np.isnan(p).any(axis=1)
            index[rows] = np.where(decided, expected.argmin(axis=1), -1)
            log_odds[rows] = log_odds_of(logits, index[rows])
            least[rows] = expected.min(axis=1)
            if self.review is not None:
                review[rows] = self.review if self.review.ndim == 0 else (p * self.review).sum(axis=1)
        accept = least <= review
        expected_cost = np.where(accept, least, np.where(np.isinf(review), np.nan, review))
        return Decisions.of(outputs, self, accept, Choice(index, log_odds), expected_cost)

    def realised_cost(self, index, target):
        acting = np.where(index < 0, np.nan, self.costs[target, index])
        if self.review is None:
            return acting, np.full(len(index), np.nan)
        return acting, np.full(len(index), self.review) if self.review.ndim == 0 else self.review[target]

    def _check_classes(self, outputs):
        names = tuple(outputs.classes)
        if len(names) != len(self.costs) or (self.classes is not None and names != self.classes):
            mine = f"{len(self.costs)} classes" if self.classes is None else brief(self.classes)
            raise DataError(
                f"the cost matrix is for {mine}, these outputs have {brief(names)}.",
                file=outputs.source,
                field="classes",
                fix="give costs for these classes in their order; read_costs(path, outputs.classes) sorts by name.",
            )


def read_costs(costs: str | Path, classes: Sequence[str]) -> Cost | CostMatrix:
    """The costs that ``--cost`` names: ``wrong=10,review=1``, or a CSV file with one cost per pair of classes.

    What ends in ``.csv`` is a file: class names in the header (the chosen class) and in the first column (the true
    one), in any order, and optionally a column ``review``. Every class must be there and no other.

    >>> read_costs("wrong=10,review=1", ["cat", "dog"])
    Cost(wrong=10.0, review=1.0)
    """
    if isinstance(costs, Path) or costs.lower().endswith(".csv"):
        return _read_matrix(Path(costs), tuple(classes))
    values: dict[str, float] = {}
    for part in costs.split(","):
        key, equals, value = (text.strip() for text in part.partition("="))
        if not equals:
            raise ValueError(f"cost: write wrong=10,review=1, or the name of a .csv file; {part.strip()!r} is neither.")
        one_of("cost", "the name before =", key, ("wrong", "review"))
        if key in values:
            raise ValueError(f"cost: {key} stands twice in {costs!r}.")
        try:
            values[key] = float(value)
        except ValueError:
            raise ValueError(f"cost: {key} is a number, not {value!r}.") from None
    for key in ("wrong", "review"):
        if key not in values:
            raise ValueError(f"cost: {costs!r} does not say what {key} costs; write wrong=10,review=1.")
    return Cost(**values)


def _read_matrix(path, classes):
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, strict=True)
            # One row per class is all that is wanted: a large file given by mistake is not read further.
            header, *rows = islice((row for row in table if row), len(classes) + 2)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        reason = "empty: not even a header line" if "unpack" in str(error) else reason
        raise DataError(f"not a cost matrix: {reason}.", file=path, fix=_MATRIX) from None
    names = [name.strip() for name in header[1:]]
    wanted = classes if "review" in classes or "review" not in names else (*classes, "review")
    _check_names(names, wanted, "column", path)
    _check_names([row[0].strip() for row in rows], classes, "row", path)
    values = {}
    for row in rows:
        true = row[0].strip()
        if len(row) != len(header):
            raise DataError(f"row {true!r} has {len(row)} cells, the header has {len(header)}.", file=path, fix=_MATRIX)
        for name, cell in zip(names, row[1:], strict=True):
            values[true, name] = _cell(true, name, cell, path)
    matrix = [[values[true, name] for name in classes] for true in classes]
    review = [values[true, "review"] for true in classes] if len(wanted) > len(classes) else None
    try:
        # One review cost for all is kept as one number: a sum of p_k * cost would not tie with it exactly.
        return CostMatrix(matrix, review[0] if review and len(set(review)) == 1 else review, classes)
    except ValueError as error:
        raise DataError(str(error), file=path, fix=_MATRIX) from None


_MATRIX = (
    "a CSV file: chosen classes in the header, true classes in the first column, a cost of at least 0 in each cell "
    "(and a column `review` where a review has a cost)."
)


def _check_names(names, wanted, what, path):
    missing, unknown = [name for name in wanted if name not in names], [name for name in names if name not in wanted]
    twice = [name for name in wanted if names.count(name) > 1]
    for problem, culprits in (("no", missing), ("an unknown", unknown), ("more than one", twice)):
        if culprits:
            raise DataError(
                f"there is {problem} {what} {culprits[0]!r}; the classes are {brief(wanted)}.",
                file=path,
                field="classes",
                fix="give each class of the scores one row and one column, spelled as there.",
            )


def _cell(true, name, cell, path):
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise DataError(
            f"true {true!r}, chosen {name!r}: a cost is a finite number of at least 0, not {cell.strip()!r}.",
            file=path,
            field="cost",
            fix="a gain is a cost of 0 with the other costs of that row raised by as much.",
        )
    return value


def _numbers(parameter, values):
    """A frozen float64 copy of costs, which are finite and not negative."""
    try:
        array = np.array(values, dtype=np.float64)
    except (ValueError, TypeError):
        raise ValueError(f"CostMatrix: {parameter} are numbers in a regular table.") from None
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(
            f"CostMatrix: {parameter} are finite numbers of at least 0; a gain is a cost of 0 with the other costs of "
            "that true class raised by as much."
        )
    array.flags.writeable = False
    return array
