"""Texts to features: TF-IDF by its definition, and the same again from what is stored."""

import numpy as np
import pytest

from lastlayer._check import DataError
from lastlayer.train._features import Features
from lastlayer.train.text import Text

TEXTS = ["free money now", "free money free", "see you now", "see you at home"]


def test_words_are_weighed_by_tf_idf():
    part = Text.fit("mail", TEXTS)
    words = list(part.terms["word"])
    assert words == ["free", "free money", "money", "now", "see", "see you", "you"]
    assert part.features[0] == "mail: word 'free'" and part.features[len(words)].startswith("mail: char ")
    row = part.transform(["free free now unheard"]).toarray()[0, : len(words)]
    idf = 1 + np.log((1 + 4) / (1 + 2))  # each of them stands in two of the four
    want = np.zeros(len(words))
    want[words.index("free")], want[words.index("now")] = (1 + np.log(2)) * idf, idf
    np.testing.assert_allclose(row, want / np.linalg.norm(want), rtol=1e-15)


def test_characters_have_length_one_as_well():
    part = Text.fit("mail", TEXTS)
    row = part.transform(["free"]).toarray()[0, len(part.terms["word"]) :]
    assert np.linalg.norm(row) == pytest.approx(1)
    seen = {term for term, x in zip(part.terms["char"], row, strict=True) if x}
    assert {"fr", "ree", " free"[:5]} <= seen and "mo" not in seen


def test_terms_of_a_single_row_are_no_features():
    assert "home" not in Text.fit("mail", TEXTS).terms["word"]


def test_text_without_common_terms_is_refused():
    with pytest.raises(DataError, match=r"mail: no word or part of a word .* --drop mail"):
        Text.fit("mail", ["ab", "", "cd"])


def test_a_table_and_texts_are_one_sparse_matrix():
    columns = {"n": np.array([1.0, 2.0, 3.0, 5.0]), "mail": np.array(TEXTS, dtype=object)}
    features = Features.fit(columns, text=["mail"])
    values = features.transform(columns).values
    assert values.format == "csr" and values.shape == (4, len(features.names)) and features.names[0] == "n"
    np.testing.assert_array_equal(values[:, [0]].toarray()[:, 0], columns["n"])
    np.testing.assert_array_equal(values[:, 1:].toarray(), features.texts[0].transform(TEXTS).toarray())
    assert features.factors[0] == pytest.approx(columns["n"].var()) and (features.factors[1:] == 1).all()


def test_columns_that_say_nothing_are_refused():
    with pytest.raises(DataError, match=r"no column says anything about the target \(a: it is constant\)"):
        Features.fit({"a": np.ones(3)})


def test_a_text_column_that_is_not_there():
    columns = {"n": np.arange(4.0), "mail": np.array(TEXTS, dtype=object)}
    with pytest.raises(DataError, match="no column 'mail'"):
        Features.fit(columns, text=["mail"]).transform({"n": columns["n"]})
