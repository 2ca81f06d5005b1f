"""`logits_of` of ONNX Runtime sessions: what the last node takes, with ``onnx`` to find it."""

import sys

import numpy as np
import pytest
from scipy.special import expit, log_expit, softmax
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lastlayer.train import logits_of

runtime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4)).astype(np.float32)
NOISY = X[:, 0] + 0.5 * RNG.normal(size=120)
TWO = np.where(NOISY > 0, "yes", "no")
THREE = np.array([7, 3, 5])[np.digitize(NOISY, [-0.5, 0.5])]
WEIGHT = (1e3 * RNG.normal(size=(4, 3))).astype(np.float32)


def session(*nodes, outputs=("out",), rows=None, inputs=("X",)):
    """Of a graph in which ``X @ W`` is ``z``, followed by the given nodes."""
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["X", "W"], ["z"]), *nodes],
        "graph",
        [onnx.helper.make_tensor_value_info(name, float32, [rows, 4]) for name in inputs],
        [onnx.helper.make_tensor_value_info(name, float32, None) for name in outputs],
        [onnx.numpy_helper.from_array(WEIGHT, "W")],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def node(kind, *names, **attributes):
    return onnx.helper.make_node(kind, list(names[:-1]), [names[-1]], **attributes)


@pytest.mark.parametrize(
    ("kind", "task"), [("Softmax", "multiclass"), ("LogSoftmax", "multiclass"), ("Sigmoid", "multilabel")]
)
def test_before_the_final_activation(kind, task):
    end = {} if kind == "Sigmoid" else {"axis": -1}
    made = session(node(kind, "z", "p", **end), node("Identity", "p", "out"))
    assert (made.run(None, {"X": X})[0] == (0 if kind == "LogSoftmax" else 1)).any()
    outputs = logits_of(made, X, batch=50)
    np.testing.assert_allclose(outputs.scores, X @ WEIGHT, rtol=1e-4, atol=1e-2)
    assert (outputs.kind, outputs.task) == ("logits", task)
    assert outputs.source == f"ONNX output 'out' before its {kind}"


@pytest.mark.parametrize("classifier", [True, False])
def test_sigmoids_divided_by_their_sum(classifier):
    """One-versus-rest, as converters write it: log_sigmoid keeps the tails where the sigmoids are 0."""
    normalise = node("Normalizer", "p", "out", norm="L1", domain="ai.onnx.ml")
    if classifier:
        settings = dict(coefficients=WEIGHT.T.ravel().tolist(), intercepts=[0.0] * 3, classlabels_ints=[7, 3, 5])
        end = onnx.helper.make_node(
            "LinearClassifier", ["X"], ["label", "p"], domain="ai.onnx.ml", post_transform="LOGISTIC", **settings
        )
    else:
        end = node("Sigmoid", "z", "p")
    outputs = logits_of(session(end, normalise), X)
    z = X.astype(float) @ WEIGHT.astype(float)
    np.testing.assert_allclose(outputs.scores, log_expit(z), rtol=1e-3, atol=1e-3)
    assert (expit(z) == 0).any()
    assert (outputs.kind, outputs.task) == ("logits", "multiclass")
    assert "one-versus-rest" in outputs.source
    assert outputs.classes == (("7", "3", "5") if classifier else ("0", "1", "2"))


def test_an_output_named_by_its_kind_says_it():
    made = session(node("Relu", "z", "hidden"), node("Identity", "z", "logits"), outputs=("hidden", "logits"))
    outputs = logits_of(made, X.astype(np.float64))
    np.testing.assert_allclose(outputs.scores, X @ WEIGHT, rtol=1e-4, atol=1e-2)
    assert outputs.kind == "logits" and outputs.source == "ONNX output 'logits'"
    assert (logits_of(made, X, output="hidden", kind="margin").scores >= 0).all()


def test_what_a_graph_does_not_say_is_asked():
    made = session(node("Identity", "z", "out"))
    with pytest.raises(ValueError, match="nothing says what ONNX output 'out' is"):
        logits_of(made, X)
    assert logits_of(made, X, kind="logits").kind == "logits"
    over_rows = session(node("Softmax", "z", "out", axis=0))
    with pytest.raises(ValueError, match="nothing says what ONNX output 'out' is"):
        logits_of(over_rows, X)
    two = session(node("Relu", "z", "a"), node("Identity", "z", "b"), outputs=("a", "b"))
    with pytest.raises(ValueError, match="has the outputs a, b; say which: output='a'"):
        logits_of(two, X)
    with pytest.raises(ValueError, match="leave it out for a model of ONNX Runtime"):
        logits_of(made, X, device="cuda", kind="logits")


def test_without_onnx_the_caller_says_it(monkeypatch):
    made = session(node("Softmax", "z", "out"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match="nothing says what ONNX output 'out' is"):
        logits_of(made, X)
    outputs = logits_of(made, X, kind="probs")
    np.testing.assert_allclose(outputs.scores, softmax((X @ WEIGHT).astype(float), axis=1), atol=1e-4)


def test_a_file_and_inputs_by_name_and_a_fixed_batch(tmp_path):
    made = session(node("Add", "z", "z", "y"), node("Softmax", "y", "out"), rows=30)
    (tmp_path / "model.onnx").write_bytes(made._model_bytes)
    again = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    seen = []
    for given in (X, {"X": X}, (X,)):
        outputs = logits_of(again, given, progress=seen.append)
        np.testing.assert_allclose(outputs.scores, 2 * X @ WEIGHT, rtol=1e-4, atol=1e-2)
    assert seen == [30] * 12
    with pytest.raises(Exception, match="Got invalid dimensions") as caught:
        logits_of(again, X[:, :2])
    assert caught.value.__notes__ == ["logits_of: rows 0 to 29 of 120, ONNX output 'out' before its Softmax."]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        MLPClassifier((5,), max_iter=20, random_state=0),
        GradientBoostingClassifier(n_estimators=5),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_skl2onnx_writes(model, y, zipmap):
    """As good as float32: the same logits as of the estimator itself, with its labels."""
    skl2onnx = pytest.importorskip("skl2onnx")
    model.fit(X, y)
    written = skl2onnx.to_onnx(model, X[:1], options={"zipmap": zipmap})
    made = runtime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs, want = logits_of(made, X), logits_of(model, X, y=y)
    np.testing.assert_allclose(outputs.logits, want.logits, rtol=2e-4, atol=2e-5)
    assert (outputs.kind, outputs.task) == ("logits", want.task)
    p = expit(outputs.scores) if outputs.task == "binary" else softmax(outputs.scores, axis=1)
    expected = model.predict_proba(X)
    np.testing.assert_allclose(p, expected[:, 1] if y is TWO else expected, rtol=1e-4, atol=1e-6)
    if zipmap or "Classifier" in outputs.source:
        assert outputs.classes == want.classes
        assert np.array_equal(logits_of(made, X, y=y).target, want.target)


def test_a_forest_has_probabilities_and_says_nothing():
    skl2onnx = pytest.importorskip("skl2onnx")
    model = RandomForestClassifier(5, random_state=0).fit(X, THREE)
    written = skl2onnx.to_onnx(model, X[:1])
    made = runtime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    with pytest.raises(ValueError, match="say kind="):
        logits_of(made, X)
    outputs = logits_of(made, X, kind="probs", y=THREE)
    np.testing.assert_allclose(outputs.scores, model.predict_proba(X), atol=1e-6)
    assert outputs.classes == ("3", "5", "7") and np.array_equal(model.classes_[outputs.target], THREE)
