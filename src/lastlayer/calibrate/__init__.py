"""Held-out logits and their target, to a fitted map from logits to logits.

calibrator = ll.calibrate.fit(outputs)      chooses and fits, on rows the model has not seen
calibrator(logits)                          logits, from any array library, differentiable
ll.calibrate.out_of_fold(outputs)           the same rows, each calibrated without itself, to be measured
calibrator.save("calibrator.json")          ll.calibrate.load("calibrator.json")
"""

from lastlayer.calibrate.beta import Beta as Beta
from lastlayer.calibrate.by_group_and_label import ByGroup as ByGroup
from lastlayer.calibrate.by_group_and_label import ByLabel as ByLabel
from lastlayer.calibrate.calibrator import Calibrator as Calibrator
from lastlayer.calibrate.calibrator import Certificate as Certificate
from lastlayer.calibrate.calibrator import FittedOn as FittedOn
from lastlayer.calibrate.calibrator import Trial as Trial
from lastlayer.calibrate.cross_fit import out_of_fold as out_of_fold
from lastlayer.calibrate.ensemble_temperature import EnsembleTemperature as EnsembleTemperature
from lastlayer.calibrate.histogram import Histogram as Histogram
from lastlayer.calibrate.identity import Identity as Identity
from lastlayer.calibrate.isotonic import Isotonic as Isotonic
from lastlayer.calibrate.matrix import Dirichlet as Dirichlet
from lastlayer.calibrate.matrix import MatrixScaling as MatrixScaling
from lastlayer.calibrate.matrix import Odir as Odir
from lastlayer.calibrate.one_versus_rest import OneVersusRest as OneVersusRest
from lastlayer.calibrate.platt import Platt as Platt
from lastlayer.calibrate.registry import METHODS as METHODS
from lastlayer.calibrate.registry import from_json as from_json
from lastlayer.calibrate.registry import load as load
from lastlayer.calibrate.scaling_binning import ScalingBinning as ScalingBinning
from lastlayer.calibrate.selection import fit as fit
from lastlayer.calibrate.spline import Spline as Spline
from lastlayer.calibrate.temperature import Temperature as Temperature
from lastlayer.calibrate.top_label_isotonic import TopLabelIsotonic as TopLabelIsotonic
from lastlayer.calibrate.vector import StructuredVectorScaling as StructuredVectorScaling
from lastlayer.calibrate.vector import TemperatureBias as TemperatureBias
from lastlayer.calibrate.vector import VectorScaling as VectorScaling
from lastlayer.calibrate.venn_abers import VennAbers as VennAbers
