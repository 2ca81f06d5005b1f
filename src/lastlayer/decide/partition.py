"""Parts of the rows that each get a threshold of their own: classes, clusters of classes, groups."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lastlayer._check import DataError
from lastlayer.decide._conformal_quantile import fewest_rows
from lastlayer.decide._record import Recorded
from lastlayer.decide._uniform import CLUSTERS, row_numbers, uniform
from lastlayer.outputs import brief

# Quantiles of each class's scores, beside that of 1 - alpha: what k-means sees (Ding et al. 2023).
_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
_OTHERS = "others"


class Parts(NamedTuple):
    """A partition and the scores of each of its parts by name."""

    partition: "Partition"
    scores: list[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Partition(Recorded):
    """Which part a row or a class belongs to: ``by`` is None, ``"class"``, ``"cluster"`` or the name of a grouping.

    ``part_of_class`` says so for each class where the parts are made of classes, and is empty otherwise.
    """

    by: str | None
    names: tuple[str, ...]
    part_of_class: tuple[int, ...] = ()

    def __post_init__(self):
        for name, kind in (("names", str), ("part_of_class", int)):
            object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))
        if not self.names or any(not 0 <= part < len(self.names) for part in self.part_of_class):
            raise ValueError("Partition: every class belongs to one of the named parts.")
        if self.of_classes != bool(self.part_of_class):
            raise ValueError("Partition: classes are assigned to parts by class or cluster, and not otherwise.")
        if self.by is None and len(self.names) > 1:
            raise ValueError("Partition: without `by` all rows are one part.")

    @classmethod
    def fit(cls, by, outputs, scores, alpha, seed) -> Parts:
        """The parts that ``by`` makes of labelled rows with these scores."""
        if by is None:
            return Parts(cls(None, ("all",)), [("all", scores)])
        if by == "class":
            return cls._classes(outputs, scores)
        if by == "cluster":
            return cls.clusters(outputs, scores, alpha, seed)
        names, part = np.unique(grouping(outputs, by, ", or 'class' or 'cluster'"), return_inverse=True)
        partition = cls(by, tuple(names.tolist()))
        return Parts(partition, [(name, scores[part == k]) for k, name in enumerate(partition.names)])

    @classmethod
    def _classes(cls, outputs, scores):
        _all_seen(outputs)
        partition = cls("class", outputs.classes, tuple(range(len(outputs.classes))))
        return Parts(partition, [(name, scores[outputs.target == k]) for k, name in enumerate(partition.names)])

    @classmethod
    def clusters(cls, outputs, scores, alpha, seed) -> Parts:
        """Clusters of classes whose scores are distributed alike, each with the threshold of its rows.

        A share ``K / (75 + K)`` of the rows, drawn by the seed, places the K classes by the quantiles of their scores;
        k-means weighted by ``sqrt(rows)`` makes half as many clusters as the rarest class has such rows; the remaining
        rows give the thresholds (Ding et al. 2023). Quantiles are of the scores' ranks among all, so that a rising
        function of the score changes nothing. Classes with fewer than ``1 / alpha - 1`` rows, and those of clusters
        with so few, are ``others``, with the threshold of all remaining rows together.
        """
        _all_seen(outputs)
        least, rows = fewest_rows(alpha), np.bincount(outputs.target, minlength=len(outputs.classes))
        large = np.flatnonzero(rows >= least)
        share = len(large) / (75 + len(large))
        clusters = math.floor(share * rows[large].min() / 2) if len(large) else 0
        numbers = None if outputs.ids is None else row_numbers(outputs.ids)
        placing = uniform(seed, CLUSTERS, numbers, 0, np.zeros(len(scores)), np) < share
        part_of_class = np.full(len(rows), -1)
        if clusters > 1:
            part_of_class[large] = _cluster(outputs.target[placing], scores[placing], large, clusters, alpha, seed)
        else:
            placing[:] = False  # nothing is placed, so every row may serve the one threshold
        part = part_of_class[outputs.target]
        kept = [k for k in range(clusters) if np.count_nonzero((part == k) & ~placing) >= least]
        names = (*(f"cluster {i}" for i in range(len(kept))), _OTHERS)
        place = {k: i for i, k in enumerate(kept)}
        partition = cls("cluster", names, tuple(place.get(k, len(kept)) for k in part_of_class.tolist()))
        found = [(f"cluster {i}", scores[(part == k) & ~placing]) for k, i in place.items()]
        return Parts(partition, [*found, (_OTHERS, scores[~placing])])

    @property
    def of_classes(self) -> bool:
        return self.by in ("class", "cluster")

    @property
    def of_groups(self) -> bool:
        return self.by is not None and not self.of_classes

    @property
    def kind(self) -> str:
        """What a part is called in a sentence."""
        return str(self.by) if self.of_classes else "group"

    def group_index(self, values):
        """The part of each row by its group; a group without held-out rows is named."""
        values = np.asarray(values).astype(str)
        present, where = np.unique(values, return_inverse=True)
        index = {name: k for k, name in enumerate(self.names)}
        found = np.array([index.get(name, -1) for name in present.tolist()])[where]
        bad = np.flatnonzero(found < 0)
        if len(bad):
            raise DataError(
                f"{str(values[bad[0]])!r} is not one of the groups that had held-out rows: {brief(self.names)}.",
                field=f"group_{self.by}",
                rows=bad,
                fix="give held-out rows of every group that is to come, or sets for all rows together (by=None).",
            )
        return found


def grouping(outputs, by, other=""):
    """The grouping named ``by``, one value per row; ``other`` says what else would do."""
    if by not in outputs.groups:
        listed = f"the groupings are {brief(tuple(outputs.groups))}" if outputs.groups else "there are no groups"
        raise DataError(
            f"no grouping {by!r}: {listed}.",
            file=outputs.source,
            field="groups",
            fix=f"name one of these{other}; groups are arrays group_<name>, one value per row.",
        )
    return outputs.groups[by]


def _all_seen(outputs):
    rows = np.bincount(outputs.target, minlength=len(outputs.classes))
    unseen = [name for name, count in zip(outputs.classes, rows, strict=True) if count == 0]
    if unseen:
        named = f"class {unseen[0]!r} has" if len(unseen) == 1 else f"classes {brief(tuple(unseen))} have"
        raise DataError(
            f"{named} no held-out row, so nothing can be promised for {'it' if len(unseen) == 1 else 'them'}.",
            file=outputs.source,
            field="target",
            fix="give held-out rows of every class, or promise coverage over all rows (by=None).",
        )


def _cluster(target, scores, classes, clusters, alpha, seed):
    """The cluster of each of these classes; -1 for one that has no row here."""
    from sklearn.cluster import KMeans

    level = np.searchsorted(np.sort(scores), scores, side="right") / len(scores)
    own = [level[target == k] for k in classes]
    seen = np.array([len(values) > 0 for values in own])
    points = np.array([np.quantile(v, (*_LEVELS, 1 - alpha)) for v in own if len(v)])
    found = np.full(len(classes), -1)
    if len(points) >= clusters:
        weight = np.sqrt([len(v) for v in own if len(v)])
        found[seen] = KMeans(clusters, random_state=int(seed)).fit_predict(points, sample_weight=weight)
    return found
