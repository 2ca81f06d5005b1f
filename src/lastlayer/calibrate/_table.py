"""The scores of one or several `Outputs` as one table of rows, read a slice at a time.

A memory map, a file of probabilities whose logits are yet to be taken, and ten shards are fitted from without ever
being whole in memory.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lastlayer.outputs import Outputs, same_meaning


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of logits (of a margin: its scores) that stand in ``parts``; ``index`` picks some of them, in its order.

    ``table[a:b]`` is an array; ``table[mask]`` and ``table[indices]`` are tables of fewer rows.
    """

    parts: tuple[Outputs, ...]
    starts: np.ndarray
    index: np.ndarray | None

    @classmethod
    def of(cls, parts) -> Self:
        same_meaning(parts)
        return cls(tuple(parts), np.cumsum([0, *map(len, parts)]), None)

    def __len__(self):
        return int(self.starts[-1]) if self.index is None else len(self.index)

    @property
    def shape(self):
        return (len(self), *self.parts[0].scores.shape[1:])

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return int(np.prod(self.shape))

    def __getitem__(self, which):
        if not isinstance(which, slice):
            chosen = np.flatnonzero(which) if which.dtype == bool else which
            return replace(self, index=chosen if self.index is None else self.index[chosen])
        start, stop, _ = which.indices(len(self))
        rows = np.arange(start, stop) if self.index is None else self.index[start:stop]
        home = np.searchsorted(self.starts, rows, side="right") - 1
        homes = np.flatnonzero(np.bincount(home))
        if len(homes) == 1:
            return self._read(int(homes[0]), rows)
        found = np.empty((len(rows), *self.shape[1:]), np.result_type(*(part.scores.dtype for part in self.parts)))
        for k in homes:
            found[home == k] = self._read(int(k), rows[home == k])
        return found

    def _read(self, k, rows):
        rows = rows - self.starts[k]
        together = (np.diff(rows) == 1).all()
        part = self.parts[k].rows(slice(int(rows[0]), int(rows[-1]) + 1) if together else rows)
        return part.scores if part.kind == "margin" else part.logits

    def ranges(self, entries):
        """Slices of about so many entries each."""
        step = max(1, entries // max(1, int(np.prod(self.shape[1:]))))
        return (slice(start, min(start + step, len(self))) for start in range(0, len(self), step))

    def column(self, name) -> Any:
        """``target``, ``weight`` or ``ids`` of all the parts; None where they have none."""
        values = [getattr(part, name) for part in self.parts]
        return None if values[0] is None else values[0] if len(values) == 1 else np.concatenate(values)
