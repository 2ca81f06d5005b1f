"""What every test may use, and what the examples in docstrings may: ``np``, printed as NumPy prints by default."""

import sys
from pathlib import Path

import numpy as np
import pytest

from arrays import DIFFERENTIABLE, LIBRARIES

MAPS = Path("/proc/self/maps")


def pytest_collection_modifyitems(items):
    """Each run asks JAX for the laws of every function; what tests of one function ask of it besides is slow.

    XLA compiles anew for each of them, which was a third of the whole suite.
    """
    for item in items:
        given = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if item.path.parent.name in ("loss", "transform") and any(getattr(v, "package", "") == "jax" for v in given):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def printing(doctest_namespace):
    doctest_namespace["np"] = np
    with np.printoptions(legacy=False, precision=8, suppress=False, threshold=1000, linewidth=75, floatmode="maxprec"):
        yield


@pytest.fixture(autouse=True)
def fewer_compiled_functions():
    """XLA maps memory for each function it compiles, and Linux allows a process 65,530 maps: above, it crashes."""
    yield
    if "jax" in sys.modules and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 20_000:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data beside the repository."""
    folder = Path(__file__).parents[1] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data are not here: no folder {folder.name!r} in ../shared beside the repository")
    return folder


@pytest.fixture(params=LIBRARIES, ids=str)
def library(request):
    """Each array library in turn, with the layouts and precisions worth telling apart."""
    request.param.require()
    with request.param.context():
        yield request.param


@pytest.fixture(params=DIFFERENTIABLE, ids=str)
def differentiable(request):
    """Each way to a gradient in turn."""
    request.param.require()
    with request.param.context():
        yield request.param
