"""What the examples in docstrings may use: ``np``, printed as NumPy prints by default."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def printing(doctest_namespace):
    doctest_namespace["np"] = np
    with np.printoptions(legacy=False, precision=8, suppress=False, threshold=1000, linewidth=75, floatmode="maxprec"):
        yield
