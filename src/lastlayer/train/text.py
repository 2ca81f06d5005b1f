"""Texts to sparse features: the words and the characters of a column, weighed by TF-IDF."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from lastlayer._check import DataError

ANALYSERS = {
    "word": {"analyzer": "word", "ngram_range": (1, 2)},
    "char": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}
FEWEST = 2  # rows that a term stands in


@dataclass(frozen=True, eq=False)
class Text:
    """One column: for words of one and two, and for characters of two to five, the terms and how rare they are.

    x = (1 + log count) * idf, each part of length 1,   idf = 1 + log((1 + n) / (1 + rows with the term))
    """

    name: str
    terms: dict[str, tuple[str, ...]]  # of each of ANALYSERS
    idf: dict[str, np.ndarray]

    @classmethod
    def fit(cls, name, texts: Sequence[str]) -> Self:
        """The terms of some texts."""
        terms, idf = {}, {}
        for part, how in ANALYSERS.items():
            vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=FEWEST, **how)
            try:
                vectorizer.fit(texts)
            except ValueError:  # nothing in it stands in two rows
                continue
            terms[part] = tuple(vectorizer.get_feature_names_out().tolist())
            idf[part] = vectorizer.idf_
        if not terms:
            raise DataError(
                f"no word or part of a word of this text stands in {FEWEST} rows.",
                field=name,
                fix=f"give more rows, or leave it out: --drop {name}.",
            )
        return cls(name, terms, idf)

    @property
    def features(self) -> list[str]:
        """``message: word 'free'``, ``message: char 'ree'``."""
        return [f"{self.name}: {part} {term!r}" for part, terms in self.terms.items() for term in terms]

    def transform(self, texts: Sequence[str]) -> Any:
        """The features of texts, a CSR matrix; terms that the fit had not seen count for nothing."""
        from scipy import sparse

        parts = []
        for part, terms in self.terms.items():
            vectorizer = TfidfVectorizer(sublinear_tf=True, vocabulary=list(terms), **ANALYSERS[part])
            vectorizer.idf_ = self.idf[part]
            parts.append(vectorizer.transform(texts))
        return sparse.hstack(parts, format="csr")
