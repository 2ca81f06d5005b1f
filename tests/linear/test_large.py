"""More than 2^31 numbers: every offset is of 64 bits. The files are sparse, so neither disk nor memory fills."""

import numpy as np
import pytest

import lastlayer as ll
from lastlayer.linear import linear_cross_entropy, linear_stats

BEYOND = 2**31


@pytest.fixture
def sparse(tmp_path):
    """A memmap of zeros of any shape, in a file that takes no room."""

    def make(dtype, *shape):
        path = tmp_path / f"{dtype}-{'x'.join(map(str, shape))}"
        with open(path, "wb") as file:
            file.truncate(int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
        return np.memmap(path, dtype, "r+", shape=shape)

    return make


def test_rows_of_a_long_file(sparse):
    rows, classes = BEYOND // 2**20 + 3, 2**20
    logits = sparse("float32", rows, classes)
    assert logits.size > BEYOND
    logits[-1, -1], logits[-2, 0] = 30.0, 20.0
    last = logits[-2:]  # beyond 2^31 entries from the start of the file
    want = np.log(classes - 1 + np.exp([20.0, 30.0]))
    np.testing.assert_allclose(ll.logsumexp(last), want, rtol=1e-6)
    np.testing.assert_allclose(ll.cross_entropy(last, np.array([5, classes - 1])), want - [0.0, 30.0], rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_row_of_features_beyond(sparse, bias):
    features = sparse("float32", BEYOND // 8 + 3, 8)
    features[-1] = np.arange(8)
    weight = np.eye(5, 8, dtype=np.float32)
    target, valid = np.zeros(len(features), np.int8), np.zeros(len(features), bool)
    target[-1], valid[-2:] = 4, True
    more = {"bias": np.zeros(5, np.float32)} if bias else {}
    loss = linear_cross_entropy(features, weight, target, valid=valid, **more)
    logits = np.arange(5.0)
    np.testing.assert_allclose(loss[-2:], [np.log(5), np.log(np.exp(logits).sum()) - 4], rtol=1e-6)
    assert not loss[:-2].any()


def test_a_class_beyond(sparse):
    weight = sparse("float32", BEYOND // 2**17 + 3, 2**17)
    weight[-1, 0], weight[-1, -1], weight[0, 0] = 1.0, 2.0, 0.5
    features = np.zeros((1, 2**17), np.float32)
    features[0, [0, -1]] = 1.0
    classes = len(weight)
    found = linear_stats(features, weight, ("argmax", "lse"), memory="1MiB")
    want = np.log(classes - 2 + np.exp(0.5) + np.exp(3.0))
    assert found["argmax"] == classes - 1
    np.testing.assert_allclose(found["lse"], want, rtol=1e-6)
