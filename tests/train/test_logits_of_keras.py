"""`logits_of` of Keras models: what the last activation takes, whatever the backend; the model stays as it is."""

import os

import numpy as np
import pytest

from lastlayer.train import logits_of

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras' own get_weights, with torch
X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def expected(model):
    """By hand, in float64, from the two dense layers."""
    first, second = (layer.get_weights() for layer in dense(model))
    return np.maximum(X.astype(float) @ first[0] + first[1], 0) @ second[0] + second[1]


def dense(model):
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            yield layer
        elif hasattr(layer, "layers"):
            yield from dense(layer)


def sequential(out, *end, **settings):
    return keras.Sequential([layers.Input((4,)), layers.Dense(6, "relu"), layers.Dense(out, **settings), *end])


def functional(out, *end, **settings):
    inputs = keras.Input((4,))
    made = layers.Dense(out, **settings)(layers.Dropout(0.5)(layers.Dense(6, "relu")(inputs)))
    for layer in end:
        made = layer(made)
    return keras.Model(inputs, made)


def nested(out, *end, **settings):
    return keras.Sequential([layers.Input((4,)), keras.Sequential([sequential(out, *end, **settings)])])


def steep(model):
    """The last weights so large that the activation gives exactly 1."""
    *_, last = dense(model)
    last.set_weights([1e3 * each for each in last.get_weights()])
    return model


@pytest.mark.parametrize("build", [sequential, functional, nested])
@pytest.mark.parametrize(
    ("activation", "out", "task"),
    [
        ("softmax", 3, "multiclass"),
        ("log_softmax", 3, "multiclass"),
        ("sigmoid", 1, "binary"),
        ("sigmoid", 3, "multilabel"),
    ],
)
def test_before_the_activation_of_the_last_layer(build, activation, out, task):
    model = steep(build(out, activation=activation))
    p = keras.ops.convert_to_numpy(model(X))
    assert ((np.exp(p) if activation == "log_softmax" else p) == 1).any()
    outputs = logits_of(model, X, batch=8)
    assert (outputs.kind, outputs.task) == ("logits", task)
    assert f"before the {activation} of" in outputs.source
    want = expected(model)
    np.testing.assert_allclose(outputs.scores, want[:, 0] if task == "binary" else want, rtol=1e-4, atol=1e-2)
    again = keras.ops.convert_to_numpy(getattr(keras.activations, activation)(outputs.scores.reshape(30, -1)))
    np.testing.assert_allclose(again, p, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(X)), p)  # the activation is back


@pytest.mark.parametrize("build", [sequential, functional])
@pytest.mark.parametrize("end", [layers.Softmax, lambda: layers.Activation("softmax")], ids=["Softmax", "Activation"])
def test_before_a_layer_that_is_an_activation(build, end):
    model = steep(build(3, end()))
    outputs = logits_of(model, X)
    assert (outputs.kind, outputs.task) == ("logits", "multiclass")
    np.testing.assert_allclose(outputs.scores, expected(model), rtol=1e-4, atol=1e-2)


def test_a_softmax_within_a_model_within():
    model = nested(3, layers.Softmax())
    outputs = logits_of(model, X)
    assert outputs.kind == "probs"
    np.testing.assert_allclose(outputs.scores.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "out", "kind", "task"),
    [
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 3, "logits", "multiclass"),
        (keras.losses.CategoricalCrossentropy(from_logits=True), 3, "logits", "multiclass"),
        (keras.losses.BinaryCrossentropy(from_logits=True), 1, "logits", "binary"),
        (keras.losses.BinaryCrossentropy(from_logits=True), 3, "logits", "multilabel"),
        ("hinge", 1, "margin", "binary"),
        ("categorical_hinge", 3, "margin", "multiclass"),
    ],
    ids=lambda value: value if isinstance(value, str | int) else type(value).__name__,
)
def test_a_linear_end_is_what_its_loss_takes_it_for(loss, out, kind, task):
    model = sequential(out)
    model.compile(loss=loss)
    outputs = logits_of(model, X)
    assert (outputs.kind, outputs.task) == (kind, task)
    want = expected(model)
    np.testing.assert_allclose(outputs.scores, want[:, 0] if out == 1 else want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [None, "mse", "sparse_categorical_crossentropy"])
def test_a_linear_end_without_such_a_loss_is_asked_for(loss):
    model = sequential(3)
    if loss is not None:
        model.compile(loss=loss)
    with pytest.raises(ValueError, match=r"nothing says what Sequential, dense\S* is"):
        logits_of(model, X)
    assert logits_of(model, X, kind="logits").kind == "logits"


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.out = layers.Dense(3, "softmax")

    def call(self, rows):
        return 2 * self.out(rows)


def test_the_call_of_a_subclass_may_do_anything():
    with pytest.raises(ValueError, match=r"nothing says what Own.call is"):
        logits_of(Own(), X)
    assert logits_of(Own(), X, kind="margin").scores.shape == (30, 3)


def test_inputs_and_outputs():
    one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
    made = layers.Dense(3, "softmax")(layers.Add()([one, two]))
    model = keras.Model([one, two], made)
    weight, bias = model.layers[-1].get_weights()
    outputs = logits_of(model, (X, X), batch=7)
    np.testing.assert_allclose(outputs.scores, 2 * X @ weight + bias, rtol=1e-4, atol=1e-5)
    named = keras.Model({"one": one, "two": two}, made)
    np.testing.assert_allclose(logits_of(named, {"one": X, "two": X}, batch=7).scores, outputs.scores, rtol=1e-5)
    with pytest.raises(ValueError, match=r"has 2 outputs; choose: keras\.Model"):
        logits_of(keras.Model([one, two], [made, made]), (X, X))
    with pytest.raises(ValueError, match=r"device= is for .*; leave it out for a model of Keras"):
        logits_of(model, (X, X), device="cpu")
    with pytest.raises(ValueError, match="incompatible") as caught:
        logits_of(model, (X[:, :2], X[:, :2]))
    assert caught.value.__notes__[-1].startswith("logits_of: rows 0 to 29 of 30, Functional before the softmax")
