"""Many rows to a state, and a state to a few numbers."""

from lastlayer.measure.compare import Comparison as Comparison
from lastlayer.measure.compare import compare as compare
from lastlayer.measure.evaluation import Evaluation as Evaluation
from lastlayer.measure.evaluation import evaluate as evaluate
from lastlayer.measure.evaluation import merge as merge
from lastlayer.measure.metric import Metric as Metric
from lastlayer.measure.scores import accuracy as accuracy
from lastlayer.measure.scores import average_precision as average_precision
from lastlayer.measure.scores import brier as brier
from lastlayer.measure.scores import calibration_error as calibration_error
from lastlayer.measure.scores import confusion as confusion
from lastlayer.measure.scores import nll as nll
from lastlayer.measure.scores import roc_auc as roc_auc
