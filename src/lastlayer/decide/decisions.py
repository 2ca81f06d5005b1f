"""What was decided for each row, what it cost, and the file that says so."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lastlayer._check import one_of, require
from lastlayer.decide.bound import clopper_pearson, fraction
from lastlayer.outputs import Outputs
from lastlayer.transform import sigmoid

COLUMNS = ("id", "action", "class", "log_odds", "prob", "expected_cost")
SET = "set"  # one more column, where the policy makes sets
_BLOCK = 20_000  # rows held as Python objects at a time
_JSON_WORDS = {"inf": "Infinity", "-inf": "-Infinity"}


class Summary(NamedTuple):
    """What the decisions amount to, per row that counts; ``None`` where the true classes or the costs are not known,
    or where no row is there to have an error. ``str`` is the summary in words.

    ``error_high`` bounds the error of accepted rows from above with ``confidence`` (Clopper-Pearson). It holds for a
    policy that was fixed before these rows were seen. With unequal weights it stands on the effective number of rows,
    ``sum(w)^2 / sum(w^2)``, and is approximate. ``error_all`` and ``cost_all`` are what accepting every row would give;
    rows without a class are reviewed there too, and enter no cost where a review has none.
    """

    rows: int
    accepted: int
    undecided: int
    share: float
    confidence: float
    error: float | None
    error_high: float | None
    error_all: float | None
    expected_cost: float | None
    realised_cost: float | None
    cost_all: float | None

    def __str__(self):
        return "\n".join(self.lines())

    def lines(self, threshold="") -> Iterator[str]:
        """The summary in words, at most 80 columns wide; ``threshold`` ends the line of what is accepted."""
        yield f"  accepted       {self.accepted:,} rows ({self.share:.1%}){threshold}"
        undecided = f", of which {self.undecided:,} speak for no class" if self.undecided else ""
        yield f"  review         {self.rows - self.accepted:,} rows ({1 - self.share:.1%}){undecided}"
        if self.error is not None and self.accepted:
            bound = f"at most {self.error_high:.2%} ({self.confidence:.0%} confidence)"
            yield f"  error          {self.error:.2%} of the accepted, {bound}"
        elif self.error_all is not None:
            yield "  error          none, as none is accepted"
        if self.error_all is not None:
            yield f"                 {self.error_all:.2%} if all were accepted"
        if self.expected_cost is not None:
            realised = "" if self.realised_cost is None else f", realised {_cost(self.realised_cost)}"
            yield f"  cost per row   expected {_cost(self.expected_cost)}{realised}"
        if self.cost_all is not None:
            yield f"                 realised {_cost(self.cost_all)} if all were accepted"


@dataclass(frozen=True, eq=False)
class Decisions:
    """One decision per row: the class, how sure it is, and whether to accept it or have it reviewed.

    ``index`` -1 means that the row speaks for no class (nan, or every class masked): it is never accepted, and its
    ``log_odds`` are nan. ``expected_cost`` is None where the policy knows no costs, ``members`` (rows, classes) where
    it makes no sets.
    """

    ids: np.ndarray
    classes: tuple[str, ...]
    accept: np.ndarray
    index: np.ndarray
    log_odds: np.ndarray
    expected_cost: np.ndarray | None
    policy: Any
    target: np.ndarray | None
    weight: np.ndarray | None
    members: np.ndarray | None = None

    @classmethod
    def of(cls, outputs: Outputs, policy, accept, choice, expected_cost=None, members=None) -> "Decisions":
        """The decisions of ``policy`` for the rows of ``outputs``; ids default to row numbers."""
        return cls(
            ids=np.arange(len(outputs)) if outputs.ids is None else _plain(outputs.ids),
            classes=tuple(outputs.classes),
            accept=accept,
            index=choice.index,
            log_odds=choice.log_odds,
            expected_cost=expected_cost,
            policy=policy,
            target=outputs.true_target,
            weight=outputs.weight,
            members=members,
        )

    def __len__(self):
        return len(self.index)

    def __repr__(self):
        return f"Decisions({len(self)} rows, {int(self.accept.sum())} accepted, by {self.policy!r})"

    @property
    def action(self) -> np.ndarray:
        return np.where(self.accept, "accept", "review")

    @property
    def names(self) -> np.ndarray:
        """The class of each row; None where there is none."""
        return np.array([*self.classes, None], dtype=object)[self.index]

    @property
    def sets(self) -> np.ndarray | None:
        """The names of the classes in the set of each row, as lists; None where the policy makes no sets."""
        if self.members is None:
            return None
        lists: list[list[str]] = [[] for _ in range(len(self))]
        for row, k in zip(*(index.tolist() for index in np.nonzero(self.members)), strict=True):
            lists[row].append(self.classes[k])
        return np.fromiter(lists, dtype=object, count=len(lists))

    @property
    def prob(self) -> np.ndarray:
        """Probability of the class that was chosen, from its log-odds."""
        return sigmoid(self.log_odds)

    def summary(self, confidence=0.95) -> Summary:
        """Shares, errors and costs of these decisions, beside those of accepting everything; see `Summary`.

        >>> from lastlayer.decide import Cost
        >>> outputs = Outputs([3.0, -4.0, 0.2], "logits", target=[1, 0, 0])
        >>> summary = Cost(wrong=10, review=1)(outputs).summary()
        >>> summary.accepted, summary.error, round(summary.realised_cost, 3), round(summary.cost_all, 3)
        (2, 0.0, 0.333, 3.333)
        """
        fraction("summary", "confidence", confidence)
        weight = np.ones(len(self)) if self.weight is None else self.weight
        kept, decided = weight > 0, self.index >= 0
        accepted = kept & self.accept
        mean = _weighted_mean(weight)
        error, high, error_all, realised, cost_all = None, None, None, None, None
        if self.target is not None:
            wrong = self.index != self.target
            error = mean(wrong, accepted) if accepted.any() else None
            error_all = mean(wrong, kept & decided) if (kept & decided).any() else None
            effective = weight[accepted].sum() ** 2 / max((weight[accepted] ** 2).sum(), np.finfo(float).tiny)
            high = float(clopper_pearson(error * effective if effective else 0.0, effective, confidence).high)
            realised, cost_all = self._realised(self.accept, kept, mean), self._realised(decided, kept, mean)
        expected = None
        if self.expected_cost is not None:
            expected = mean(self.expected_cost, kept & ~np.isnan(self.expected_cost))
        return Summary(
            rows=int(kept.sum()),
            accepted=int(accepted.sum()),
            undecided=int((kept & ~decided).sum()),
            share=mean(accepted, kept),
            confidence=confidence,
            error=error,
            error_high=high,
            error_all=error_all,
            expected_cost=expected,
            realised_cost=realised,
            cost_all=cost_all,
        )

    def _realised(self, accept, kept, mean):
        """Mean cost per row if the rows of ``accept`` are acted on and the others reviewed."""
        acting, review = self.policy.realised_cost(self.index, self.target)
        if acting is None:
            return None
        cost = np.where(accept, acting, review)
        return mean(cost, kept & ~np.isnan(cost))

    def write(self, path, *, force=False):
        """Write the decisions file, whole or not at all: ``.csv``, ``.jsonl`` or ``.parquet`` by its suffix.

        Columns ``id, action, class, log_odds, prob, expected_cost``, and ``set`` where the policy makes sets, as in
        `dump`. A file that is there already is refused unless ``force``.
        """
        from lastlayer.io.atomic import atomic_writer

        form = Path(path).suffix.lower().removeprefix(".")
        _check_form("Decisions.write", form)
        with atomic_writer(path, force=force) as file:
            self.dump(file, form)

    def dump(self, file: BinaryIO, form: str):
        """The same into an open binary file; ``form`` is ``"csv"``, ``"jsonl"`` or ``"parquet"``.

        What is not known (the class of an undecided row, the cost under a policy without costs) is an empty cell in CSV
        and null elsewhere. Infinite log-odds are ``inf`` in CSV and the string ``"Infinity"`` in JSON. A set is a list
        of class names, in CSV as JSON text: ``["cat", "dog"]``.

        >>> from lastlayer.decide import Cost
        >>> file = io.BytesIO()
        >>> Cost(wrong=10, review=1)(Outputs([0.0, np.nan], "logits", classes=["no", "yes"])).dump(file, "csv")
        >>> print(file.getvalue().decode().strip())
        id,action,class,log_odds,prob,expected_cost
        0,review,no,0.0,0.5,1.0
        1,review,,,,1.0
        """
        _WRITERS[_check_form("Decisions.dump", form)](self, file)

    def _columns(self):
        cost = np.full(len(self), np.nan) if self.expected_cost is None else self.expected_cost
        columns = dict(zip(COLUMNS, (self.ids, self.action, self.names, self.log_odds, self.prob, cost), strict=True))
        sets = self.sets
        return columns if sets is None else columns | {SET: sets}

    def _rows(self) -> Iterator[tuple]:
        """Rows as Python values, None for what is not known."""
        columns = self._columns().values()
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            yield from zip(*(_known(column[block]) for column in columns), strict=True)

    def _header(self) -> tuple[str, ...]:
        return COLUMNS if self.members is None else (*COLUMNS, SET)


def _cost(value):
    return f"{value:.4f}" if value < 100 else f"{value:,.2f}"


def _known(column):
    values = column.tolist()
    return [None if v != v else v for v in values] if column.dtype.kind == "f" else values


def _plain(ids):
    """Ids as numbers or texts, whatever they came as."""
    if ids.dtype.kind in "iuf":
        return ids
    if ids.dtype.kind == "S":
        return np.char.decode(ids, "utf-8", "backslashreplace")
    return ids.astype(str)


def _weighted_mean(weight) -> Callable[[np.ndarray, np.ndarray], float]:
    def mean(values, rows):
        total = weight[rows].sum()
        return float((weight[rows] * values[rows]).sum() / total) if total else float("nan")

    return mean


def _check_form(function, form):
    one_of(function, "format", form, tuple(_WRITERS))
    return form


def _write_csv(decisions, file):
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(decisions._header())
    table.writerows(map(_cells, decisions._rows()))
    text.flush()
    text.detach()  # the file stays open; whoever opened it closes it


def _cells(row):
    """A row for CSV: a set as JSON text, since names may hold whatever would part them."""
    return (*row[:-1], json.dumps(row[-1], ensure_ascii=False)) if isinstance(row[-1], list) else row


def _write_jsonl(decisions, file):
    for row in decisions._rows():
        values = (_JSON_WORDS.get(str(v), v) if isinstance(v, float) else v for v in row)
        line = json.dumps(dict(zip(decisions._header(), values, strict=True)), ensure_ascii=False)
        file.write(line.encode() + b"\n")


def _write_parquet(decisions, file):
    arrow = require("pyarrow", "tables", "writing parquet")
    parquet = require("pyarrow.parquet", "tables", "writing parquet")
    arrays = {name: arrow.array(column, from_pandas=True) for name, column in decisions._columns().items()}
    arrays["class"] = arrays["class"].cast(arrow.string())  # of all None it would be a column of type null
    if SET in arrays:
        arrays[SET] = arrays[SET].cast(arrow.list_(arrow.string()))
    parquet.write_table(arrow.table(arrays), file)


_WRITERS = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}
