"""Data to a model that makes logits.

Estimators are loaded on their first use: they are scikit-learn's, which takes a second to import. A function whose
module bears its name is imported here, since Python puts the module in its place otherwise.
"""

import importlib
from typing import TYPE_CHECKING

from lastlayer.train.digits import digits as digits
from lastlayer.train.inference import inference as inference
from lastlayer.train.logits_of import logits_of as logits_of
from lastlayer.train.out_of_fold import out_of_fold as out_of_fold
from lastlayer.train.separation import separation as separation

if TYPE_CHECKING:
    from lastlayer.train.blocks import Blocks as Blocks
    from lastlayer.train.blocks import fit_blocks as fit_blocks
    from lastlayer.train.firth import FirthClassifier as FirthClassifier
    from lastlayer.train.linear_classifier import LinearClassifier as LinearClassifier
    from lastlayer.train.linear_classifier_cv import LinearClassifierCV as LinearClassifierCV
    from lastlayer.train.model_file import load_model as load_model
    from lastlayer.train.table import Table as Table

# The module of each name; another is one line here and one above.
_HOMES = {
    "Blocks": "blocks",
    "FirthClassifier": "firth",
    "LinearClassifier": "linear_classifier",
    "LinearClassifierCV": "linear_classifier_cv",
    "Table": "table",
    "fit_blocks": "blocks",
    "load_model": "model_file",
}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'lastlayer.train' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"lastlayer.train.{_HOMES[name]}"), name)
    return found


def __dir__():
    return ["digits", "inference", "logits_of", "out_of_fold", "separation", *_HOMES]
