import numpy as np
import pytest

from lastlayer._check import DataError
from lastlayer.io import load

ROWS = [[1.0, -2.0], [0.5, 3.0]]


def test_a_dictionary_is_read_like_a_file():
    outputs = load(
        {"logits": ROWS, "target": ["b", "a"], "classes": ["a", "b"], "group_site": ["x", "y"], "weight": [1, 2]}
    )
    assert outputs.target.tolist() == [1, 0] and outputs.groups["site"].tolist() == ["x", "y"]
    assert outputs.source is None
    wide = load({"logit_a": [1.0, 0.5], "logit_b": [-2.0, 3.0], "target": [b"b", b"a"]})
    assert wide.scores.tolist() == ROWS and wide.target.tolist() == [1, 0]


def test_an_array_needs_its_kind():
    assert load(np.array(ROWS), "logits").scores.tolist() == ROWS
    with pytest.raises(
        DataError, match=r"nothing says what these scores are: shape \(2, 2\), min -2, max 3, rows sum to -1 .. 3.5"
    ):
        load(np.array(ROWS))


def test_lists_and_records():
    assert load(ROWS, "logits", target=[0, 1]).target.tolist() == [0, 1]
    assert load([np.array(row) for row in ROWS], "margin").scores.tolist() == ROWS
    assert load([{"p_a": 0.25, "p_b": 0.75}, {"p_a": 1, "p_b": 0}]).scores.tolist() == [[0.25, 0.75], [1, 0]]


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_torch(name):
    torch = pytest.importorskip("torch", reason="pip install 'lastlayer[torch]'")
    tensor = torch.tensor(ROWS, dtype=getattr(torch, name), requires_grad=True)
    outputs = load(tensor, "logits", target=torch.tensor([0, 1]))
    assert outputs.scores.tolist() == ROWS and outputs.target.tolist() == [0, 1]
    assert outputs.scores.dtype == (np.float64 if name == "float64" else np.float32)
    assert load([tensor[0], tensor[1]], "logits").scores.tolist() == ROWS


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_jax(name):
    jnp = pytest.importorskip("jax.numpy", reason="pip install jax")
    assert load({"logits": jnp.asarray(ROWS, dtype=name)}).scores.tolist() == ROWS


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_tables(library):
    module = pytest.importorskip(library, reason=f"pip install {library}")
    make = module.table if library == "pyarrow" else module.DataFrame
    table = make({"logit_a": [1.0, 0.5], "logit_b": [-2.0, 3.0], "target": ["b", "a"], "id": [7, 8]})
    outputs = load(table)
    assert outputs.scores.tolist() == ROWS and outputs.target.tolist() == [1, 0] and outputs.ids.tolist() == [7, 8]
    lists = load(make({"probs": [[0.25, 0.75], [1.0, 0.0]]}))
    assert lists.kind == "probs" and lists.scores.tolist() == [[0.25, 0.75], [1, 0]]
    with pytest.raises(DataError, match="probs: row 1 holds 1 values, row 0 holds 2"):
        load(make({"probs": [[0.25, 0.75], [1.0]]}))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_series_is_an_array(library):
    module = pytest.importorskip(library, reason=f"pip install {library}")
    outputs = load(module.Series([1.0, -2.0]), "logits", target=module.Series([True, False]))
    assert outputs.task == "binary" and outputs.target.tolist() == [1, 0]


def test_categories_are_names():
    polars = pytest.importorskip("polars", reason="pip install polars")
    target = polars.Series(["b", "a"], dtype=polars.Categorical)
    assert load(polars.DataFrame({"logit_a": [1.0, 2], "logit_b": [2.0, 1], "target": target})).target.tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    "source, says",
    [
        ([[1.0, 2.0], [3.0]], "scores: is no array: setting an array element with a sequence"),
        (object(), "scores: object is not read"),
        (3.0, "scores have shape"),
        ([], "no rows"),
        (np.array([[1, 2], [3, 4]], dtype=object), "scores: object is not read"),
        ([["a", "b"]], "scores are <U1, not numbers"),
        ({"logits": [[1.0], [2.0]]}, "one column of scores, .* --task binary"),
        ({"logits": ROWS, "target": [b"\xff", b"a"]}, "target: is no array: 'utf-8' codec"),
        ({"logits": ROWS, "classes": 3}, "class names have shape"),
        ({}, "there are no named arrays"),
        ({"logit_a": [1.0], "logit_b": [1.0, 2.0]}, "logit_b: 2 rows, logit_a has 1"),
        ({"logit_a": [1.0], "logit_b": ["x"]}, "logit_b: scores are numbers, one per row; this column is <U1"),
        (
            {"logit_a": [1.0], "logit_b": [1.0], "target_a": [1], "target_b": [1, 0]},
            "target_b: one 0, 1 or probability",
        ),
    ],
)
def test_what_is_no_array(source, says):
    with pytest.raises(DataError, match=says):
        load(source, "logits")
