"""Sets of classes that hold the true one as often as promised: split conformal prediction on logits.

A score says how badly a class conforms to its row; `decide.conformal_scores` has six. The threshold is an order
statistic of the scores of the true classes of held-out rows, and the set of a new row holds every class whose score
does not exceed it:

    threshold = the k-th smallest of n,  k = ceil((n + 1)(1 - alpha));    k / (n + 1) = P(the set holds the true class)

for rows drawn alike (Vovk, Gammerman & Shafer 2005), with >= in place of = where scores tie. Scores live in log space
and nothing is compared with a tolerance: a score equal to the threshold is in the set.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lastlayer._array import as_array, floating, namespace, to_numpy
from lastlayer._check import DataError, one_of, shape
from lastlayer.decide._conformal_quantile import fewest_rows, order, threshold, too_few
from lastlayer.decide._record import Record, Recorded, typed
from lastlayer.decide._sorted_rows import Place, likeliest, rank_of, ranked, ranks
from lastlayer.decide._uniform import CALIBRATION, NEW_ROWS, check_seed, row_numbers, uniform
from lastlayer.decide.bound import counted, fraction
from lastlayer.decide.choice import Choice, choose
from lastlayer.decide.decisions import Decisions
from lastlayer.decide.partition import Partition, grouping
from lastlayer.outputs import Outputs, brief, wanted

_BLOCK = 1 << 17  # entries at a time: APS on 10,000 x 100 took 29 ms for fit and sets, 42 at 1 << 15, 33 at 1 << 18


class Score(Recorded):
    """How badly a class conforms to its row: never less for a class of a higher rank, and infinite at worst.

    A score is a frozen dataclass of its own parameters with a ``name`` and ``of``; calling ``fit`` gives sets.
    """

    name: ClassVar[str]
    randomized: bool = False
    named: ClassVar[dict[str, type["Score"]]] = {}

    def __init_subclass__(cls, name):
        cls.name = name
        Score.named[name] = cls

    def of(self, place: Place) -> Any:
        """The score of each class, from where it stands."""
        raise NotImplementedError

    def at(self, by_rank, share, rank=None):
        """Scores by rank, ``(classes, rows)``, or at one rank of each row; nan where a class can be in no set."""
        return by_rank.only_possible(self.of(by_rank.places(share, rank)), rank)

    @classmethod
    def fit(cls, outputs: Outputs, alpha=0.1, *, by=None, seed=0, **parameters) -> "ConformalSets":
        """Sets of this score with coverage ``1 - alpha``, from labelled rows nothing else was fitted on.

        ``by`` and ``seed`` as in `ConformalSets.fit`, ``parameters`` as of the score itself.
        """
        return ConformalSets.fit(cls(**parameters), outputs, alpha, by=by, seed=seed)

    def record(self) -> dict[str, Any]:
        return {"name": self.name} | super().record()


def as_score(score) -> Score:
    """A `Score`, also from what `Score.record` gives."""
    if isinstance(score, Score):
        return score
    if isinstance(score, type) and issubclass(score, Score):
        return score()
    if not isinstance(score, dict) or "name" not in score:
        raise TypeError(f"score is one of {', '.join(Score.named)}, such as decide.APS(), not {score!r}.")
    one_of("conformal", "score", score["name"], tuple(Score.named))
    made = Score.named[score["name"]]
    return made(**typed(made, {name: value for name, value in score.items() if name != "name"}))


class Sets(Record, kind="sets", called="conformal sets"):
    """A fitted record that turns logits into sets of classes or labels."""


@dataclass(frozen=True)
class ConformalSets(Sets, name="split"):
    """``sets(logits)``: for each row the classes that conform, bool ``(*batch, classes)``.

    ``thresholds`` are one per part of ``partition`` (one part, or one per class, cluster of classes or group), each
    from so many ``rows``. `always` names the parts whose rows were too few: their sets leave nothing out.
    """

    score: Score
    alpha: float
    partition: Partition
    thresholds: tuple[float, ...]
    rows: tuple[int, ...]
    classes: tuple[str, ...]
    task: str
    seed: int

    def __post_init__(self):
        object.__setattr__(self, "score", as_score(self.score))
        fraction("ConformalSets", "alpha", self.alpha)
        if isinstance(self.partition, dict):
            object.__setattr__(self, "partition", Partition(**typed(Partition, self.partition)))
        for name, kind in (("thresholds", float), ("rows", int), ("classes", str)):
            object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))
        parts = len(self.partition.names)
        if not len(self.thresholds) == len(self.rows) == parts or any(map(math.isnan, self.thresholds)):
            raise ValueError(f"ConformalSets: one threshold and one number of rows for each of {parts} parts.")
        if len(self.partition.part_of_class) not in (0, len(self.classes)):
            raise ValueError(f"ConformalSets: one part for each of {len(self.classes)} classes.")
        one_of("ConformalSets", "task", self.task, ("multiclass", "binary"))
        check_seed("ConformalSets", self.seed)

    @classmethod
    def fit(cls, score, outputs: Outputs, alpha=0.1, *, by=None, seed=0) -> "ConformalSets":
        """The thresholds of ``score`` for sets that miss the true class in a share ``alpha`` of rows like these.

            P(the set holds the true class) >= 1 - alpha        for each part of the rows that `by` makes

        ``by=None`` promises it for all rows together, ``"class"`` for each true class, ``"cluster"`` for each cluster
        of classes with like scores (see `Partition.clusters`), and the name of a grouping for each of its groups
        (Vovk 2012; Romano et al. 2020). The outputs must be labelled and unseen by whatever was fitted before. ``seed``
        is that of the draws of a randomised score: the same seed and the same row give the same set.

        A class without a held-out row is refused. A class or group with fewer than ``1 / alpha - 1`` rows has no
        threshold that keeps the promise, so its classes are always in the set, and `always` names it; where no part has
        enough rows, or more rows than ``alpha`` allows can be covered by no set, that is refused.

        >>> from lastlayer.decide.conformal_scores import LAC
        >>> rng = np.random.default_rng(0)
        >>> z = 3 * rng.normal(size=(1000, 4))
        >>> y = np.argmax(z + rng.gumbel(size=z.shape), axis=1)
        >>> sets = ConformalSets.fit(LAC(), Outputs(z, "logits", target=y), alpha=0.1)
        >>> sets(np.array([[4.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.9, -5.0]]))
        array([[ True, False, False, False],
               [ True,  True,  True, False]])
        """
        score = as_score(score)
        fraction("ConformalSets.fit", "alpha", alpha)
        check_seed("ConformalSets.fit", seed)
        outputs = calibration_rows("ConformalSets.fit", outputs)
        if len(outputs) < fewest_rows(alpha):
            raise too_few(len(outputs), alpha, outputs.source)
        scores = target_scores(score, outputs, seed)
        partition, parts = Partition.fit(by, outputs, scores, alpha, seed)
        thresholds, rows = zip(
            *((threshold(part, alpha, outputs.source, name), len(part)) for name, part in parts), strict=True
        )
        if max(rows) < fewest_rows(alpha):
            raise too_few(max(rows), alpha, outputs.source, of=f" in the largest {partition.kind}")
        return cls(score, float(alpha), partition, thresholds, rows, tuple(outputs.classes), outputs.task, int(seed))

    def __str__(self):
        by = "" if self.partition.by is None else f" by {self.partition.by}"
        found = f"threshold {self.thresholds[0]:.6g}" if len(self.thresholds) == 1 else f"{len(self.rows)} thresholds"
        return f"{self.score.name}{by} at alpha {self.alpha:g}: {found} from {sum(self.rows):,} rows"

    @property
    def always(self) -> tuple[str, ...]:
        """The parts with too few held-out rows for a threshold: whatever falls into one is always in the set."""
        least = fewest_rows(self.alpha)
        return tuple(name for name, rows in zip(self.partition.names, self.rows, strict=True) if rows < least)

    @property
    def promised(self) -> dict[str, float]:
        """The coverage of each part over all held-out and new rows: exact for a randomised score, else at least so."""
        return {
            name: order(rows, self.alpha) / (rows + 1)
            for name, rows in zip(self.partition.names, self.rows, strict=True)
        }

    def __call__(self, logits, *, group=None, rows=None) -> Any:
        """The classes of each row that conform: bool ``(*batch, classes)`` in the array library that came.

        A masked class (-inf) is in no set; a row with a nan, or with every class masked, has an empty one. Sets by
        group need the ``group`` of each row. A randomised score draws one number per row from the seed and the row's
        number: ``rows``, or the position in the batch; the other rows change nothing. Binary sets take one logit per
        row, of ``classes[1]``. float32 is decided in float64, by JAX only under ``jax_enable_x64``.
        """
        x = self._shaped(floating(as_array(logits)))
        xp = namespace(x)
        batch, flat = x.shape[:-1], xp.reshape(x, (-1, x.shape[-1]))
        if rows is not None:
            rows = row_numbers(one_per_row("sets", "rows", rows, batch))
        part = None
        if self.partition.of_groups:
            if group is None:
                raise ValueError(f"sets: these are by {self.partition.by}; say group=, one for each row of logits.")
            part = self.partition.group_index(one_per_row("sets", "group", group, batch))
        if xp is not np:
            return xp.reshape(self._members(flat, part, rows, 0, xp), x.shape)
        members = np.empty(flat.shape, bool)
        for block in row_blocks(flat):
            own, numbers = (None if column is None else column[block] for column in (part, rows))
            members[block] = self._members(flat[block], own, numbers, block.start, np)
        return members.reshape(x.shape)

    def apply(self, outputs: Outputs) -> np.ndarray:
        """The sets of these rows, bool ``(n, classes)``; ``ids`` number the rows, ``groups`` give their groups."""
        outputs = fitting(self, "sets.apply", outputs)
        group = grouping(outputs, self.partition.by) if self.partition.of_groups else None
        rows = None if outputs.ids is None else row_numbers(outputs.ids)
        return self(outputs.logits, group=group, rows=rows)

    def decide(self, outputs: Outputs) -> Decisions:
        """`Decisions` with the set of each row: accepted where it is the likeliest class alone, else to be reviewed."""
        return decided(self, outputs)

    def realised_cost(self, index, target) -> tuple[Any, Any]:
        """Sets know no costs."""
        return None, None

    def _shaped(self, x):
        return shaped(x, self.task, len(self.classes))

    def _members(self, x, part, rows, start, xp):
        with np.errstate(all="ignore"):
            by_rank = ranked(x, xp)
            share = uniform(self.seed, NEW_ROWS, rows, start, by_rank.top, xp, draw=self.score.randomized)
            scores = self.score.at(by_rank, share)
            cut = as_array(np.array(self.thresholds)[... if part is None else part], like=scores)
            cut = xp.astype(cut, scores.dtype)
            if self.partition.of_classes:
                own = xp.take_along_axis(xp.moveaxis(scores, 0, -1), ranks(x, xp), axis=-1)
                return own <= xp.take(cut, as_array(np.array(self.partition.part_of_class), like=scores), axis=0)
            return likeliest(x, xp.count_nonzero(scores <= cut, axis=0), by_rank)


def calibration_rows(function, outputs):
    """The labelled rows that count, with one true class each."""
    outputs = single(wanted(function, outputs))
    return counted(outputs.labelled).hard("coverage counts how often a set holds the true class")


def single(outputs):
    if outputs.task == "multilabel":
        raise DataError(
            f"{outputs.scores.shape[1]} labels per row: these sets hold one true class.",
            file=outputs.source,
            fix="use decide.LabelSets.fit(outputs, risk=0.1), which controls the risk of a set of labels.",
        )
    return outputs


def target_scores(score, outputs, seed, index=None):
    """The score of the true class of each row, or of ``index``."""
    x = shaped(outputs.logits, outputs.task, len(outputs.classes))
    rows = None if outputs.ids is None else row_numbers(outputs.ids)
    target, found = outputs.target if index is None else index, np.empty(len(x))
    with np.errstate(all="ignore"):
        for block in row_blocks(x):
            by_rank = ranked(x[block], np)
            numbers = None if rows is None else rows[block]
            share = uniform(seed, CALIBRATION, numbers, block.start, by_rank.top, np, draw=score.randomized)
            found[block] = score.at(by_rank, share, rank_of(x[block], target[block]))
    return found


def shaped(x, task, classes):
    """Logits with a last axis of classes; a binary logit z is the two logits (0, z)."""
    xp = namespace(x)
    if task == "binary":
        return xp.stack([xp.zeros_like(x), x], axis=-1)
    if x.shape[-1:] != (classes,):
        raise ValueError(f"sets: fitted on {classes} classes; these logits are {shape(x)}, classes come last.")
    return x


def row_blocks(x):
    """Slices of so few rows that what is made of them stays in the cache."""
    step = max(1, _BLOCK // x.shape[-1])
    return [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]


def one_per_row(function, name, values, batch):
    values = to_numpy(values)
    if values.shape != tuple(batch):
        raise ValueError(
            f"{function}: one of {name} for each row of logits. There are {tuple(batch)} rows, {name} is "
            f"{shape(values)}."
        )
    return values.reshape(-1)


def fitting(sets, function, outputs):
    """Outputs of the task and classes that the sets were fitted on."""
    outputs = single(wanted(function, outputs))
    if outputs.task != sets.task or tuple(outputs.classes) != sets.classes:
        raise DataError(
            f"the sets were fitted on {sets.task} outputs with classes {brief(sets.classes)}; these are {outputs.task} "
            f"with {brief(tuple(outputs.classes))}.",
            file=outputs.source,
            field="classes",
            fix="bring the columns and `classes` into the order of the fit, or fit on rows like these.",
        )
    return outputs


def decided(sets, outputs) -> Decisions:
    """Decisions that accept the likeliest class where it is the whole set."""
    members = sets.apply(outputs)
    choice = choose(outputs)
    alone = members.sum(axis=1) == 1
    accept = alone & (choice.index >= 0) & (members.argmax(axis=1) == choice.index)
    return Decisions.of(outputs, sets, accept, Choice(choice.index, choice.log_odds), members=members)
