"""Everything between a model's last layer and the decision made from it.

    transform   logits to another view of the same rows     softmax(logits)
    loss        logits, target: one number per row          cross_entropy(logits, target)
    linear      features, weight: logits never held         linear_cross_entropy(x, w, target)
    measure     many rows to a few numbers                  evaluate(outputs).metrics()
    calibrate   held-out rows to a map logits -> logits     calibrate.fit(outputs)
    decide      logits and a policy to an action            decide.Cost(wrong=10, review=1)
    train       data to a model that makes logits           train.LinearClassifier()
    report      outputs to findings and pages               check(outputs)

The names below are the whole of it, in that order.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    # The data: what a model put out, with its meaning declared once.
    from lastlayer.io import blocks as blocks
    from lastlayer.io import load as load
    from lastlayer.io import save as save
    from lastlayer.outputs import Outputs as Outputs

    # transform: logits, without a target.
    from lastlayer.transform import entropy as entropy
    from lastlayer.transform import log1mexp as log1mexp
    from lastlayer.transform import log_odds as log_odds
    from lastlayer.transform import log_sigmoid as log_sigmoid
    from lastlayer.transform import log_softmax as log_softmax
    from lastlayer.transform import logit as logit
    from lastlayer.transform import logsumexp as logsumexp
    from lastlayer.transform import row_stats as row_stats
    from lastlayer.transform import sigmoid as sigmoid
    from lastlayer.transform import softcap as softcap
    from lastlayer.transform import softmax as softmax
    from lastlayer.transform import softplus as softplus
    from lastlayer.transform import top2_gap as top2_gap

    # loss: one number per row. Every other objective is in ll.loss.
    from lastlayer.loss import binary_cross_entropy as binary_cross_entropy
    from lastlayer.loss import cross_entropy as cross_entropy
    from lastlayer.loss import distill as distill
    from lastlayer.loss import focal as focal
    from lastlayer.loss import info_nce as info_nce
    from lastlayer.loss import mean as mean
    from lastlayer.loss import multilabel_cross_entropy as multilabel_cross_entropy
    from lastlayer.loss import siglip as siglip
    from lastlayer.loss import sup_con as sup_con
    from lastlayer.loss import top_k_cross_entropy as top_k_cross_entropy

    # linear: features and the last layer's weight, without ever holding the logits.
    from lastlayer.linear import linear_binary_focal as linear_binary_focal
    from lastlayer.linear import linear_clip as linear_clip
    from lastlayer.linear import linear_cross_entropy as linear_cross_entropy
    from lastlayer.linear import linear_focal as linear_focal
    from lastlayer.linear import linear_info_nce as linear_info_nce
    from lastlayer.linear import linear_multilabel_cross_entropy as linear_multilabel_cross_entropy
    from lastlayer.linear import linear_sampled_softmax as linear_sampled_softmax
    from lastlayer.linear import linear_siglip as linear_siglip
    from lastlayer.linear import linear_stats as linear_stats
    from lastlayer.linear import plan as plan

    # measure: a state, then a few numbers.
    from lastlayer.measure import Comparison as Comparison
    from lastlayer.measure import Evaluation as Evaluation
    from lastlayer.measure import Metric as Metric
    from lastlayer.measure import accuracy as accuracy
    from lastlayer.measure import average_precision as average_precision
    from lastlayer.measure import brier as brier
    from lastlayer.measure import calibration_error as calibration_error
    from lastlayer.measure import compare as compare
    from lastlayer.measure import confusion as confusion
    from lastlayer.measure import evaluate as evaluate
    from lastlayer.measure import merge as merge
    from lastlayer.measure import nll as nll
    from lastlayer.measure import roc_auc as roc_auc

    # Stages with more than one choice keep their own names, as does the rest of transform and loss.
    from lastlayer import calibrate as calibrate
    from lastlayer import decide as decide
    from lastlayer import linear as linear
    from lastlayer import loss as loss
    from lastlayer import train as train
    from lastlayer import transform as transform

    # report: findings and pages.
    from lastlayer.report import Finding as Finding
    from lastlayer.report import Report as Report
    from lastlayer.report import check as check

    # and, for a doubt about a kernel: run every function by its formula.
    from lastlayer.kernels import formulas as formulas

# Where each name is found, on first use: `import lastlayer` costs what `import numpy` costs. A test holds the two lists
# together.
_HOMES = {
    "io": "blocks load save",
    "outputs": "Outputs",
    "transform": "entropy log1mexp log_odds log_sigmoid log_softmax logit logsumexp"
    " row_stats sigmoid softcap softmax softplus top2_gap",
    "loss": "binary_cross_entropy cross_entropy distill focal info_nce mean multilabel_cross_entropy siglip sup_con"
    " top_k_cross_entropy",
    "linear": "linear_binary_focal linear_clip linear_cross_entropy linear_focal linear_info_nce"
    " linear_multilabel_cross_entropy linear_sampled_softmax linear_siglip linear_stats plan",
    "measure": "Comparison Evaluation Metric accuracy average_precision brier calibration_error compare confusion"
    " evaluate merge nll roc_auc",
    "report": "Finding Report check",
    "kernels": "formulas",
}
_STAGES = ("transform", "loss", "linear", "measure", "calibrate", "decide", "train", "report")
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name):
    if name in _STAGES:
        return importlib.import_module(f"lastlayer.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'lastlayer' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"lastlayer.{_HOME[name]}"), name)
    return found


def __dir__():
    return [*_HOME, *_STAGES, "__version__"]
