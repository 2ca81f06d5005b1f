"""Small outputs of every task, and what it means that two are the same."""

import numpy as np
import pytest

from lastlayer.outputs import Outputs


def build(task, dtype=np.float32, rows=7):
    """Outputs with everything in them: names that need quoting, groups, ids, weights, nan and both infinities."""
    rng = np.random.default_rng(20)
    scores = rng.normal(size=rows if task == "binary" else (rows, 3)).astype(dtype)
    scores.reshape(-1)[[1, 5, 6]] = [np.nan, np.inf, -np.inf]
    target = {
        "multiclass": rng.integers(0, 3, rows),
        "binary": np.arange(rows) % 2,
        "multilabel": rng.integers(0, 2, (rows, 3)),
        "distribution": rng.dirichlet([1, 1, 1], rows),
    }[task]
    return Outputs(
        scores,
        "logits",
        target=target,
        classes=["ham", "spam"] if task == "binary" else ['a,"b"', "ça va", "line\nbreak "],
        weight=rng.random(rows) + 0.1,
        ids=np.array([f"row {i}" for i in range(rows)]),
        groups={"site": rng.integers(0, 2, rows), "Äge": np.array(["old", "new"])[rng.integers(0, 2, rows)]},
        task=None if task == "distribution" else task,
    )


def assert_same(found, want, dtype=None):
    """Equal bit for bit: values, dtypes, names, order."""
    dtype = dtype or want.scores.dtype
    assert found.scores.dtype == dtype
    assert np.ascontiguousarray(found.scores).tobytes() == want.scores.astype(dtype).tobytes()
    assert (found.kind, found.task, found.classes) == (want.kind, want.task, want.classes)
    for name in ("target", "weight", "ids"):
        a, b = getattr(found, name), getattr(want, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype.kind == b.dtype.kind and a.shape == b.shape and (a == b).all(), name
    assert list(found.groups) == list(want.groups)
    assert all((found.groups[name] == want.groups[name]).all() for name in want.groups)


@pytest.fixture
def make():
    return build


@pytest.fixture
def same():
    return assert_same


@pytest.fixture(params=["multiclass", "binary", "multilabel", "distribution"])
def task(request):
    return request.param


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def complaint(tmp_path):
    """``complaint(name, bytes, **flags)``: the sentence that loading such a file gives."""
    from lastlayer._check import DataError
    from lastlayer.io import load

    def ask(name, content, **flags):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(DataError) as caught:
            load(path, **flags)
        assert caught.value.file == str(path)
        assert caught.value.fix
        return str(caught.value)

    return ask
