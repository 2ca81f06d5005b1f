"""Two processes of gloo, each with rows of its own, against one with all of them."""

import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from lastlayer._check import DataError
from lastlayer.train import Blocks, LinearClassifier, fit_blocks
from lastlayer.train.ranks import Passes

pytest.importorskip("torch")

ROWS, HALF = 3000, 1300
CASES = {
    "binary": {},
    "classes": {},
    "names": dict(class_weight="balanced"),
    "grades": dict(ordinal=True),
    "labels": dict(tol=1e-9),
    "wide": dict(tol=1e-8),  # L-BFGS: what its tolerance leaves is more than what ranks do
}

# What a rank does: argv is the folder. `split` has a class that the second rank never sees.
RANK = """
import os, sys, warnings
from datetime import timedelta
import numpy as np
import torch.distributed as dist
from scipy.sparse import csr_array
from lastlayer.train import Blocks, LinearClassifier, fit_blocks

warnings.simplefilter("error")
folder, rank = sys.argv[1], int(os.environ["RANK"])
data = dict(np.load(f"{folder}/data.npz"))
rows = slice(0, 1300) if rank == 0 else slice(1300, None)
found = {}

def said(**cases):
    for name, (model, blocks, group) in cases.items():
        try:
            fit_blocks(model, blocks, group=group)
            found[name] = "nothing"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"

X, y = data["X"][rows], data["binary"][rows]
mine = Blocks.of_arrays(X, y, memory=60_000)
said(begun=(LinearClassifier(), mine, "world"))
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
for name, settings in CASES.items():
    if name == "wide":
        cut = slice(0, 500) if rank == 0 else slice(500, None)
        blocks = Blocks.of_arrays(data["wide_X"][cut], data[name][cut], memory=600_000)
    else:
        blocks = Blocks.of_arrays(X, data[name][rows], data["weight"][rows], memory=60_000)
    model = fit_blocks(LinearClassifier(**(dict(tol=1e-11) | settings)), blocks, group=dist.group.WORLD)
    found[f"{name} coef"], found[f"{name} intercept"] = model.coef_, model.intercept_
    found[f"{name} classes"] = model.classes_
sparse = [(csr_array(data["X"][rows]), data["binary"][rows])]
found["sparse coef"] = fit_blocks(LinearClassifier(tol=1e-11), Blocks.of(sparse), group="world").coef_
missing = X.copy()
missing[5] = np.nan if rank else 0.0
said(
    features=(LinearClassifier(), Blocks.of_arrays(X[:, : 3 + rank], y), "world"),
    missing=(LinearClassifier(), Blocks.of_arrays(missing, y), "world"),
    empty=(LinearClassifier(), mine.part(0, 1) if rank else Blocks.of_arrays(X[:0], y[:0]), "world"),
    settings=(LinearClassifier(C=1.0 + rank, tol=1e-11), mine, "world"),
    constant=(LinearClassifier(), Blocks.of_arrays(X, 0 * y), "world"),
)
np.savez(f"{folder}/rank{rank}.npz", **found)
dist.destroy_process_group()
"""


def data():
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(ROWS, 4))
    z = plain @ rng.normal(size=(4, 4))
    classes = (z + rng.gumbel(size=z.shape)).argmax(1)
    classes[HALF:] = np.where(classes[HALF:] == 2, 0, classes[HALF:])  # the second rank never sees class 2
    wide = rng.normal(size=(900, 180))
    return dict(
        X=plain * [0.01, 1.0, 10.0, 1e3] + 1.0,
        binary=(classes > 0) * 1,
        classes=classes,
        names=np.array(["ash", "beech", "cedar", "date"])[classes],
        grades=np.digitize(z[:, 0] + rng.logistic(size=ROWS), [-1.0, 1.0]),
        labels=np.stack([classes > 0, classes % 2 == 0], axis=1) * 1,
        weight=rng.uniform(0.5, 2.0, ROWS),
        wide_X=wide,
        wide=(wide[:, :6] + rng.gumbel(size=(900, 6))).argmax(1),
    )


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks found, started as torchrun does."""
    folder = tmp_path_factory.mktemp("ranks")
    np.savez(folder / "data.npz", **data())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = f"CASES = {CASES!r}\n" + textwrap.dedent(RANK)
    shared = dict(os.environ, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", OMP_NUM_THREADS="1")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            env=shared | dict(RANK=str(rank)),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_are_one(ranks, case):
    given = data()
    X, weight = (given["wide_X"], None) if case == "wide" else (given["X"], given["weight"])
    wanted = LinearClassifier(**(dict(tol=1e-11) | CASES[case])).fit(X, given[case], weight)
    for name, value in (("coef", wanted.coef_), ("intercept", wanted.intercept_)):
        np.testing.assert_array_equal(ranks[0][f"{case} {name}"], ranks[1][f"{case} {name}"])
        np.testing.assert_allclose(ranks[0][f"{case} {name}"], value, rtol=0, atol=1e-6 if case == "wide" else 1e-8)
    np.testing.assert_array_equal(ranks[0][f"{case} classes"], wanted.classes_)


def test_sparse_rows(ranks):
    given = data()
    wanted = LinearClassifier(tol=1e-11).fit(given["X"], given["binary"])
    np.testing.assert_allclose(ranks[0]["sparse coef"], wanted.coef_, rtol=1e-8)
    np.testing.assert_array_equal(ranks[0]["sparse coef"], ranks[1]["sparse coef"])


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("begun", "ValueError: fit_blocks: group is one of torch.distributed, which is not begun"),
        ("features", "DataError: X: blocks differ: one has 3 features, another 4"),
        ("constant", "DataError: target: the target is constant"),
        ("settings", "RuntimeError: fit_blocks: ranks are at different parameters"),
    ],
)
def test_all_ranks_say_what_is_wrong(ranks, case, sentence):
    for found in ranks:
        assert str(found[case]).startswith(sentence)


@pytest.mark.parametrize(
    ("case", "rank", "sentence"), [("missing", 1, "NaN"), ("empty", 0, "blocks: there are no rows")]
)
def test_what_is_wrong_on_one_rank_is_said_on_all(ranks, case, rank, sentence):
    assert sentence in str(ranks[rank][case]) and "rank" not in str(ranks[rank][case]).split("Fix:")[0]
    assert str(ranks[1 - rank][case]).startswith(f"DataError: rank {rank}: ")
    assert sentence in str(ranks[1 - rank][case])


def test_without_a_group_there_is_no_one_to_ask():
    X, y = data()["X"], data()["binary"]
    with pytest.raises(ValueError, match="which is not begun"), Passes(Blocks.of_arrays(X, y), group="world"):
        pass
    with pytest.raises(DataError, match="there are no rows"):
        fit_blocks(LinearClassifier(), Blocks.of_arrays(X[:0], y[:0]))
