"""Held-out logits and their target, to a fitted map from logits to logits.

calibrator = ll.calibrate.fit(outputs)      chooses and fits, on rows the model has not seen
calibrator(logits)                          logits, from any array library, differentiable
calibrator.save("calibrator.json")          ll.calibrate.load("calibrator.json")
"""

from lastlayer.calibrate.calibrator import Calibrator as Calibrator
from lastlayer.calibrate.calibrator import Certificate as Certificate
from lastlayer.calibrate.calibrator import FittedOn as FittedOn
from lastlayer.calibrate.calibrator import Trial as Trial
from lastlayer.calibrate.identity import Identity as Identity
from lastlayer.calibrate.registry import METHODS as METHODS
from lastlayer.calibrate.registry import from_json as from_json
from lastlayer.calibrate.registry import load as load
from lastlayer.calibrate.selection import fit as fit
from lastlayer.calibrate.temperature import Temperature as Temperature
