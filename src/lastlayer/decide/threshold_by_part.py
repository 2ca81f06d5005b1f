"""A threshold for each class or each group, so that the promise holds within every one of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lastlayer._check import DataError
from lastlayer.decide.bound import counted, fraction
from lastlayer.decide.choice import choose
from lastlayer.decide.decisions import Decisions
from lastlayer.decide.partition import Partition, grouping
from lastlayer.decide.policy import Policy
from lastlayer.decide.threshold import Coverage, Risk, Threshold
from lastlayer.outputs import Outputs, wanted


@dataclass(frozen=True)
class Thresholds(Policy, name="thresholds"):
    """A `Threshold` for each part: for each class that may be chosen (``by="class"``), or for each group.

    ``parts`` are in the order of ``names``. None stands for a part of which every row is reviewed, since no threshold
    keeps the promise there.
    """

    by: str
    names: Any
    parts: Any
    confidence: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(map(str, self.names)))
        parts = tuple(Policy.from_record(part) if isinstance(part, dict) else part for part in self.parts)
        object.__setattr__(self, "parts", parts)
        if not parts or len(parts) != len(self.names) or len(set(self.names)) != len(self.names):
            raise ValueError(f"Thresholds: one threshold for each name; {len(parts)} for {', '.join(self.names)}.")
        if not all(part is None or isinstance(part, Threshold) for part in parts):
            raise ValueError("Thresholds: every part is a Threshold, or None to have its rows reviewed.")
        if self.by == "cluster":
            raise ValueError("Thresholds: by is 'class' or the name of a grouping.")

    @classmethod
    def fit(cls, outputs: Outputs, by, *, risk=None, coverage=None, confidence=0.95, seed=None) -> "Thresholds":
        """`Risk.fit` or `Coverage.fit` on the rows of each part by itself; the promises hold all at once.

            P(some part breaks its promise) <= 1 - confidence = sum over the parts of (1 - confidence) / parts

        ``by="class"`` parts the rows by the class that is chosen, so ``risk=0.02`` means: of the rows accepted as
        ``cat`` at most 2 % are something else. Any other ``by`` is a grouping. A part in which no threshold keeps the
        risk, for want of rows or for what they say, is reviewed; if that is true of all, it is refused. A coverage that
        some part has too few rows for is refused.

        >>> z = np.concatenate([np.full(900, 5.0), np.full(100, -5.0)])
        >>> outputs = Outputs(z, "logits", target=z > 0, classes=["no", "yes"])
        >>> policy = Thresholds.fit(outputs, "class", risk=0.02)
        >>> policy(Outputs([6.0, -6.0], "logits", classes=["no", "yes"])).action
        array(['accept', 'review'], dtype='<U6')
        """
        fraction("Thresholds.fit", "confidence", confidence)
        if (risk is None) == (coverage is None):
            raise ValueError("Thresholds.fit: say risk= or coverage=, one of the two.")
        name, share = ("coverage", coverage) if risk is None else ("risk", risk)
        fraction("Thresholds.fit", name, share)
        rows = counted(wanted("Thresholds.fit", outputs))
        if risk is not None:
            rows = rows.labelled.hard("a risk counts rows that are right or wrong")
        names, part = _parted(rows, by)
        each = 1 - (1 - confidence) / len(names)
        parts, refused = [], []
        for k, label in enumerate(names):
            mine = np.flatnonzero(part == k)
            try:
                parts.append(_fitted(rows, mine, risk, coverage, each, seed))
            except DataError as error:
                refused.append((len(mine), label, error))
                parts.append(None)
        if refused and (risk is None or len(refused) == len(names)):
            _, label, error = max(refused, key=lambda each: each[0])
            what = f"none of {len(names)} parts; of {by} {label!r}" if risk is not None else f"{by} {label!r}"
            raise DataError(f"{what}: {error.message}", file=outputs.source, fix=error.fix)
        return cls(by, names, tuple(parts), float(confidence))

    def __repr__(self):
        reviewed = sum(part is None for part in self.parts)
        none = f", {reviewed} without one" if reviewed else ""
        return f"Thresholds(by {self.by}: {len(self.parts)} parts{none})"

    @property
    def reviewed(self) -> tuple[str, ...]:
        """The parts of which every row is reviewed."""
        return tuple(name for name, part in zip(self.names, self.parts, strict=True) if part is None)

    def decide(self, outputs: Outputs) -> Decisions:
        choice = choose(outputs)
        # A nan on either side accepts nothing: a part without a threshold, a row without a class (and so without part).
        cut = np.array([np.nan if part is None else part.log_odds for part in self.parts])
        accept = choice.log_odds >= cut[self._part(outputs, choice.index)]
        return Decisions.of(outputs, self, accept, choice)

    def _part(self, outputs, index):
        """The part of each row; -1 where it speaks for no class."""
        if self.by != "class":
            return Partition(self.by, self.names).group_index(grouping(outputs, self.by))
        if tuple(outputs.classes) != self.names:
            raise DataError(
                f"the thresholds are for classes {', '.join(self.names)}; these outputs have others, or in another "
                "order.",
                file=outputs.source,
                field="classes",
                fix="bring the columns and `classes` into the order of the fit.",
            )
        return index


def _parted(rows, by):
    """The names of the parts and the part of each row (-1: none)."""
    if by == "class":
        return tuple(rows.classes), choose(rows).index
    names, part = np.unique(grouping(rows, by, ", or 'class'"), return_inverse=True)
    return tuple(map(str, names.tolist())), part


def _fitted(rows, mine, risk, coverage, confidence, seed):
    if len(mine) == 0:
        raise DataError("no held-out row.", fix="give held-out rows of it, or one threshold for all rows.")
    if risk is None:
        return Coverage.fit(rows.rows(mine), coverage, confidence)
    return Risk.fit(rows.rows(mine), risk, confidence, seed=seed)
