"""Columns of a table and of texts as one matrix of features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from lastlayer._check import DataError
from lastlayer.outputs import brief
from lastlayer.train.table import Encoded, Table, texts
from lastlayer.train.text import Text


@dataclass(frozen=True, eq=False)
class Features:
    """What a model was trained on: the table first, then each text. Dense without texts, else CSR."""

    table: Table
    texts: tuple[Text, ...] = ()

    @classmethod
    def fit(cls, columns: Mapping[str, np.ndarray], text: Sequence[str] = (), categories=(), reference=False) -> Self:
        """From the columns of some rows, of which those in ``text`` are texts."""
        plain = {name: values for name, values in columns.items() if name not in text}
        table = Table.fit(plain, categories, reference)
        if not table.columns and not text:
            why = brief(tuple(f"{name}: {reason}" for name, reason in table.left_out))
            raise DataError(
                "no column says anything about the target" + (f" ({why})." if why else "."),
                fix="give columns that differ between rows.",
            )
        return cls(table, tuple(Text.fit(name, texts(columns[name])) for name in text))

    @property
    def names(self) -> list[str]:
        return self.table.features + [feature for part in self.texts for feature in part.features]

    @property
    def factors(self) -> np.ndarray:
        """What each feature's penalty is multiplied by."""
        return np.concatenate([self.table.factors, np.ones(sum(len(part.features) for part in self.texts))])

    def transform(self, columns: Mapping[str, np.ndarray]) -> Encoded:
        """The features of rows, and what was strange about them."""
        encoded = self.table.transform(columns)
        if not self.texts:
            return encoded
        from scipy import sparse

        for part in self.texts:
            if part.name not in columns:
                raise DataError(
                    f"there is no column {part.name!r}.",
                    field="header",
                    fix=f"give the columns of the training table; these are {brief(tuple(columns))}.",
                )
        parts = [part.transform(texts(columns[part.name])) for part in self.texts]
        if self.table.columns:
            parts.insert(0, sparse.csr_matrix(encoded.values))
        return Encoded(sparse.hstack(parts, format="csr"), encoded.notes)
