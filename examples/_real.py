"""What the examples on real data share: where the data are, and the words and characters of texts."""

import argparse
import os
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion, make_union

DATA = Path(os.environ.get("LASTLAYER_DATA", "data"))


def asked(example: str, data=True) -> dict[str, Path]:
    """The folders of a command line: ``--data`` (or ``LASTLAYER_DATA``) to read, ``--out`` to write."""
    options = argparse.ArgumentParser(description=example, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="for the report")
    if data:
        options.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="with tabular/ and text/")
    folders = vars(options.parse_args())
    if data and not folders["data"].is_dir():
        options.error(f"there is no folder {folders['data']}; name that of the data: --data DIR, or LASTLAYER_DATA.")
    folders["out"].mkdir(parents=True, exist_ok=True)
    return folders


def words_and_characters() -> FeatureUnion:
    """Words and pairs of them, and their pieces of two to four characters, weighed by TF-IDF, in float32."""
    how = {"sublinear_tf": True, "dtype": np.float32}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", min_df=2, **how)
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=3, **how)
    return make_union(words, pieces)
