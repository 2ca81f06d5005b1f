"""Do sets hold the true class as often as promised, and for whom do they not?"""

from typing import NamedTuple

import numpy as np

from lastlayer._array import to_numpy
from lastlayer._check import shape
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.measure.metric import Metric, normal, wilson
from lastlayer.state import WeightedSum

_SIZES = (0, 1, 2, 4, 11, 101)  # the first size of each stratum; as in Angelopoulos et al. 2021, with 0 apart


class Stratum(NamedTuple):
    """Some of the rows, by the size of their set, their class or their group, and the coverage among them."""

    name: str
    coverage: Metric
    size: float


class CoverageTable(NamedTuple):
    """What sets do for these rows; every share with its 95 % interval.

    ``by_size`` has the sizes 0, 1, 2-3, 4-10, 11-100 and more that occur, ``by_class`` each true class and ``by_group``
    each group. `sscv` and `covgap` compare them with a promise.
    """

    coverage: Metric
    size: Metric
    empty: Metric
    single: Metric
    by_size: tuple[Stratum, ...]
    by_class: tuple[Stratum, ...]
    by_group: tuple[Stratum, ...]

    def sscv(self, promised) -> float:
        """Size-stratified coverage violation: the largest ``|coverage - promised|`` over the strata of set sizes.

        Angelopoulos et al. 2021.
        """
        return max(abs(stratum.coverage - promised) for stratum in self.by_size)

    def covgap(self, promised) -> float:
        """The mean ``|coverage - promised|`` over the true classes (Ding et al. 2023, there in per cent)."""
        return float(np.mean([abs(stratum.coverage - promised) for stratum in self.by_class]))


def coverage(
    sets: Bool[Array, "n classes"], target: Int[Array, " n"], *, groups=None, classes=None, weight=None
) -> CoverageTable:
    """How often sets hold the true class: over all rows, and by size of the set, class and group.

        coverage = mean of sets[i, target_i],    size = mean of the number of classes in a set

    Shares have Wilson's interval, the size the normal one. ``weight`` 0 leaves a row out. ``groups`` is one value per
    row, ``classes`` the names in the order of the columns.

    >>> table = coverage([[True, False], [True, True], [False, True], [False, False]], [0, 1, 0, 1])
    >>> float(table.coverage), float(table.size), float(table.empty), table.sscv(0.9)
    (0.5, 1.0, 0.25, 0.9)
    """
    sets, target = to_numpy(sets), to_numpy(target)
    if sets.ndim != 2 or sets.dtype.kind != "b":
        raise TypeError(f"coverage: sets are bool (n, classes), not {sets.dtype} {shape(sets)}.")
    if target.shape != (len(sets),) or target.dtype.kind not in "iu":
        raise ValueError(
            f"coverage: one class index per row. There are {len(sets)} rows, target is {target.dtype} {shape(target)}."
        )
    if len(target) and not 0 <= target.min() <= target.max() < sets.shape[1]:
        raise ValueError(f"coverage: a target is the index of one of the {sets.shape[1]} classes.")
    weight = _column("weight", np.ones(len(sets)) if weight is None else weight, len(sets))
    if not (weight > 0).any():
        raise ValueError("coverage: no row counts.")
    names = [str(k) for k in range(sets.shape[1])] if classes is None else [str(name) for name in classes]
    size = sets.sum(axis=1)
    covered = sets[np.arange(len(sets)), target]
    strata = np.searchsorted(_SIZES, size, side="right") - 1
    rows = _Rows(covered, size, weight)
    by_group = ()
    if groups is not None:
        values, where = np.unique(_column("groups", groups, len(sets)).astype(str), return_inverse=True)
        by_group = rows.strata(where, values.tolist())
    return CoverageTable(
        coverage=rows.share(covered),
        size=rows.mean_size(),
        empty=rows.share(size == 0),
        single=rows.share(size == 1),
        by_size=rows.strata(strata, _size_names()),
        by_class=rows.strata(target, names),
        by_group=by_group,
    )


def worst_slab(
    features: Float[Array, "n features"], covered: Bool[Array, " n"], *, mass=0.1, directions=1000, seed=0
) -> Metric:
    """Coverage in the worst slab ``{x : a <= v . x <= b}`` that holds a share ``mass`` of the rows or more.

    The slab is the least covered one over random directions v on a random half of the rows, and the coverage that of
    the other half inside of it, so that what was searched for does not make it look worse than it is (Cauchois, Gupta &
    Duchi 2021; the halves: Romano, Sesia & Candès 2020, supplement). The features may be the logits.

    >>> x = np.linspace(-1, 1, 4000)[:, None]
    >>> float(worst_slab(x, x[:, 0] > -0.8)) < 0.05
    True
    """
    x, covered = np.asarray(to_numpy(features), dtype=np.float64), to_numpy(covered)
    if x.ndim != 2 or covered.shape != (len(x),) or covered.dtype.kind != "b":
        raise ValueError(
            f"worst_slab: features (n, d) and one bool per row; these are {shape(x)} and {covered.dtype} "
            f"{shape(covered)}."
        )
    if not 0 < mass < 1 or directions < 1 or not np.isfinite(x).all():
        raise ValueError("worst_slab: 0 < mass < 1, one direction or more, and finite features.")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(x))
    search, rest = shuffled[: len(x) // 2], shuffled[len(x) // 2 :]
    least = max(1, int(np.ceil(mass * len(search))))
    if len(search) < least or not len(search):
        raise ValueError(f"worst_slab: {len(x)} rows are too few to search.")
    worst = (np.inf, np.zeros(x.shape[1]), 0.0, 0.0)
    for v in rng.normal(size=(directions, x.shape[1])):
        along = x[search] @ v
        order = np.argsort(along, kind="stable")
        share, first, last = _least_mean(covered[search][order], least)
        if share < worst[0]:
            worst = share, v, along[order[first]], along[order[last]]
    _, v, low, high = worst
    along = x[rest] @ v
    inside = covered[rest][(along >= low) & (along <= high)]
    return wilson(float(inside.mean()) if len(inside) else np.nan, len(inside), len(inside))


def _least_mean(values, least):
    """The least mean of ``least`` or more consecutive values, and the first and last of them (Dinkelbach 1967).

    Each step finds the run that undercuts the mean so far the most; a run that undercuts none ends it. The sums are of
    whole numbers, so it ends exactly.
    """
    count = np.concatenate([[0], np.cumsum(values)])
    index = np.arange(len(count))
    hits, rows, first, last = int(count[-1]), len(values), 0, len(values) - 1
    while True:
        excess = count * rows - index * hits  # rows * sum of (value - hits / rows)
        peak = np.maximum.accumulate(excess[:-least])
        gain = excess[least:] - peak
        end = int(gain.argmin())
        if gain[end] >= 0:
            return hits / rows, first, last
        start = int(excess[: end + 1].argmax())
        first, last = start, end + least - 1
        hits, rows = int(count[end + least] - count[start]), end + least - start


class _Rows(NamedTuple):
    covered: np.ndarray
    size: np.ndarray
    weight: np.ndarray

    def share(self, hits) -> Metric:
        mean = WeightedSum.of(hits, self.weight).value()
        return wilson(float(mean.mean), float(mean.effective), int(mean.rows))

    def mean_size(self) -> Metric:
        mean = WeightedSum.of(self.size, self.weight).value()
        return normal(float(mean.mean), float(mean.error), int(mean.rows), 0.0)

    def strata(self, index, names) -> tuple[Stratum, ...]:
        """Those of the strata that hold a row that counts."""
        found = []
        for k, name in enumerate(names):
            inside = index == k
            if (self.weight[inside] > 0).any():
                part = _Rows(*(column[inside] for column in self))
                found.append(Stratum(name, part.share(part.covered), float(part.mean_size())))
        return tuple(found)


def _size_names():
    last = [following - 1 for following in _SIZES[1:]]
    names = [str(a) if a == b else f"{a}-{b}" for a, b in zip(_SIZES, last, strict=False)]
    return [*names, f"{_SIZES[-1]} or more"]


def _column(name, values, rows):
    values = to_numpy(values)
    if values.shape != (rows,):
        raise ValueError(f"coverage: one of {name} per row. There are {rows} rows, {name} is {shape(values)}.")
    return values
