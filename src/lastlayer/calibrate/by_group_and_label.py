"""Calibrators made of calibrators: one for each group of rows, or for each label."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from lastlayer._array import as_array, namespace, to_numpy
from lastlayer._check import DataError
from lastlayer._check import shape as shape_of
from lastlayer.calibrate._certified import Ending, certified
from lastlayer.calibrate.calibrator import Calibrator, Certificate
from lastlayer.calibrate.identity import Identity


@dataclass(frozen=True, eq=False)
class ByGroup(Calibrator):
    """Each group its own calibrator: ``calibrator(logits, groups)``, or ``calibrator.apply(outputs)``.

        calibrated_i = parts[group_i](logits_i), or everyone(logits_i) where the group has none

    ``by`` is the grouping's name. A group that was not in the fit, or had too few rows there, gets ``everyone``, the
    calibrator of all rows.

    >>> from lastlayer.calibrate import Identity, Temperature
    >>> fitted = ByGroup("site", {"north": Temperature(2.0)}, Identity())
    >>> fitted(np.array([[4.0, 0.0], [4.0, 0.0]]), ["north", "south"])
    array([[2., 0.],
           [4., 0.]])
    """

    method = "by_group"

    by: str
    parts: dict[str, Calibrator]
    everyone: Calibrator

    @classmethod
    def of(cls, rows, by, groups, everyone, fitted_to) -> Self:
        """Fit to each group of ``rows`` that has rows enough, by ``fitted_to(rows)``."""
        parts, after = {}, rows.losses(everyone)
        for name in np.unique(groups):
            mine = groups == name
            part = rows.take(mine)
            try:
                parts[str(name)] = fitted = fitted_to(part)
            except DataError:  # too few rows, one class, a class too few: what a fit to these rows alone would say
                continue
            after[mine] = part.losses(fitted)
        ending = Ending.of({"all rows": everyone} | {f"{by} {name}": part for name, part in parts.items()})
        before, after = (float(np.average(losses, weights=rows.weight)) for losses in (rows.losses(Identity()), after))
        return cls(by, parts, everyone, certificate=Certificate(*ending, before, after, *rows.left_out))

    def __call__(self, logits: Any, groups: Any = None) -> Any:
        """Calibrated logits; ``groups`` names the group of each row, ``(*batch,)``."""
        if groups is None:
            raise ValueError(
                f"by_group: the calibrator of a row follows from its group; call it with the {self.by!r} of each row, "
                "or `apply` it to Outputs that have it."
            )
        logits, names = as_array(logits), to_numpy(groups).astype(str)
        batch = logits.shape[: names.ndim]
        if batch != names.shape:
            raise ValueError(
                f"by_group: one group per row; logits {shape_of(logits)} and groups {shape_of(names)} do not fit."
            )
        xp = namespace(logits)
        calibrated = self.everyone(logits)
        for name, part in self.parts.items():
            here = names == name
            if here.any():
                mine = xp.asarray(here.reshape(here.shape + (1,) * (logits.ndim - here.ndim)), device=logits.device)
                calibrated = xp.where(mine, part(logits), calibrated)
        return calibrated

    @property
    def width(self):
        return self.everyone.width

    def calibrated(self, outputs):
        if self.by not in outputs.groups:
            raise DataError(
                f"the calibrator goes by {self.by!r}, and there is no such grouping here.",
                file=outputs.source,
                field="groups",
                fix=f"give a column group_{self.by} (in Python: groups={{{self.by!r}: values}}).",
            )
        return self(outputs.scores if outputs.kind == "margin" else outputs.logits, outputs.groups[self.by])


@dataclass(frozen=True, eq=False)
class ByLabel(Calibrator):
    """Each label of multilabel rows its own calibrator, in the order of the columns.

        calibrated_ik = parts[k](logits_ik)

    A label that is nan or masked stays so, and changes no other.

    >>> from lastlayer.calibrate import Platt, Temperature
    >>> ByLabel({"wet": Temperature(2.0), "cold": Platt(1.0, -3.0)})(np.array([[4.0, 3.0], [-np.inf, np.nan]]))
    array([[  2.,   0.],
           [-inf,  nan]])
    """

    method = "by_label"

    parts: dict[str, Calibrator]

    @classmethod
    def of(cls, rows, fitted_to) -> Self:
        """Fit to each label of ``rows``, by ``fitted_to(rows of this label)``."""
        parts = {name: fitted_to(rows.label(k)) for k, name in enumerate(rows.classes)}
        fitted = cls(parts)
        return replace(fitted, certificate=certified(fitted, rows, *Ending.of(parts)))

    @property
    def width(self):
        return len(self.parts)

    def map(self, logits):
        logits = as_array(logits)
        if logits.shape[-1:] != (len(self.parts),):
            raise ValueError(f"by_label: fitted on {len(self.parts)} labels; these logits are {shape_of(logits)}.")
        xp = namespace(logits)
        return xp.stack([part.map(logits[..., k]) for k, part in enumerate(self.parts.values())], axis=-1)
