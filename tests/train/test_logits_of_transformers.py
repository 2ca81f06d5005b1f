"""`logits_of` of Hugging Face classifiers, of a tiny BERT that nobody trained, and of a pipeline around it."""

import numpy as np
import pytest

from lastlayer.train import logits_of

torch = pytest.importorskip("torch", reason="pip install torch")
transformers = pytest.importorskip("transformers")
IDS = np.random.default_rng(0).integers(5, 30, size=(20, 6))
MASK = (np.arange(6) < np.arange(20)[:, None] % 5 + 2).astype(np.int64)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, 30))]


def bert(labels, **settings):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        **({"id2label": dict(enumerate(labels))} if isinstance(labels, list) else {"num_labels": labels}),
        **settings,
    )
    return transformers.BertForSequenceClassification(config)


def by_hand(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS), attention_mask=torch.tensor(MASK)).logits.numpy()


@pytest.mark.parametrize(
    ("settings", "task"),
    [
        ({}, "multiclass"),
        ({"problem_type": "single_label_classification"}, "multiclass"),
        ({"problem_type": "multi_label_classification"}, "multilabel"),
    ],
)
def test_tokenised_inputs(settings, task):
    model = bert(["bad", "fine", "good"], **settings)
    model.train()
    y = IDS[:, 0] % 3 if task == "multiclass" else (IDS[:, :3] % 2)
    outputs = logits_of(model, {"input_ids": IDS, "attention_mask": MASK}, y=y, batch=7)
    assert model.training and model.bert.training
    np.testing.assert_allclose(outputs.scores, by_hand(model), rtol=1e-5, atol=1e-6)
    assert (outputs.kind, outputs.task) == ("logits", task)
    assert outputs.classes == ("bad", "fine", "good") and np.array_equal(outputs.target, y)
    assert outputs.source == "BertForSequenceClassification.logits"
    encoded = transformers.BatchEncoding({"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(MASK)})
    assert np.array_equal(logits_of(model, encoded, batch=7, device="cpu").scores, outputs.scores)


def test_a_regression_is_none():
    model = bert(1)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    with pytest.raises(ValueError, match="is a regression: problem_type=None, num_labels=1; say kind='logits' if"):
        logits_of(model, inputs)
    outputs = logits_of(model, inputs, kind="logits")
    assert outputs.task == "binary"
    np.testing.assert_allclose(outputs.scores, by_hand(model)[:, 0], rtol=1e-5, atol=1e-6)


def test_a_pipeline(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    model = bert(["bad", "fine", "good"])
    texts = [" ".join(f"w{i}" for i in row[: 2 + k % 4]) for k, row in enumerate(IDS)]
    piped = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    outputs = logits_of(piped, texts, y=["good"] * 20, batch=6)
    model.eval()
    with torch.no_grad():
        want = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(outputs.scores, want, rtol=1e-4, atol=1e-6)
    assert outputs.classes == ("bad", "fine", "good") and (outputs.target == 2).all()
    assert outputs.source == "TextClassificationPipeline > BertForSequenceClassification.logits"
    with pytest.raises(ValueError, match="a pipeline is made with a device"):
        logits_of(piped, texts, device="cpu")


def test_other_objects_of_the_library():
    with pytest.raises(ValueError, match=r"BertConfig is no model; give the model \(trainer.model\), or a pipeline"):
        logits_of(transformers.BertConfig(), ["a"])
