"""How calibration errors are binned: ours, and those of two papers, off-by-ones included, to reproduce their tables."""

from typing import NamedTuple

import numpy as np

from lastlayer._check import one_of


class Convention(NamedTuple):
    """Edges of the top-label and the classwise bins, all ``(low, high]``, and how classes are combined."""

    name: str
    top_edges: np.ndarray
    class_edges: np.ndarray
    combine: str
    note: str


_15 = np.linspace(0.0, 1.0, 16)

CONVENTIONS = {
    "lastlayer": Convention("lastlayer", _15, _15, "mean", "15 width bins; classwise: the mean over classes"),
    "guo2017": Convention(
        "guo2017",
        _15,
        _15,
        "mean",
        "Guo et al. 2017, eq. 3: 15 width bins (low, high] of the top label; the paper has no classwise error",
    ),
    "kull2019": Convention(
        "kull2019",
        _15,
        np.linspace(0.0, 1.0, 15),
        "sum",
        "Kull et al. 2019, as their code has it: classwise is the SUM over classes with 14 bins (edges "
        "linspace(0, 1, 15)); nll stays exact (theirs is clipped at 1e-15)",
    ),
}


def convention_of(function: str, name: str | None) -> Convention:
    """The named convention; None is ours."""
    name = name or "lastlayer"
    one_of(function, "convention", name, tuple(CONVENTIONS))
    return CONVENTIONS[name]
