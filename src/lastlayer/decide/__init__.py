"""Logits and a policy, given or fitted on held-out rows, to what is done with each row."""

from lastlayer.decide.bound import clopper_pearson as clopper_pearson
from lastlayer.decide.choice import Choice as Choice
from lastlayer.decide.choice import argmax as argmax
from lastlayer.decide.choice import choose as choose
from lastlayer.decide.conformal import ConformalSets as ConformalSets
from lastlayer.decide.conformal import Sets as Sets
from lastlayer.decide.conformal_scores import APS as APS
from lastlayer.decide.conformal_scores import LAC as LAC
from lastlayer.decide.conformal_scores import RAPS as RAPS
from lastlayer.decide.conformal_scores import SAPS as SAPS
from lastlayer.decide.conformal_scores import SCORES as SCORES
from lastlayer.decide.conformal_scores import Margin as Margin
from lastlayer.decide.conformal_scores import TopK as TopK
from lastlayer.decide.cost import Cost as Cost
from lastlayer.decide.cost import CostMatrix as CostMatrix
from lastlayer.decide.cost import read_costs as read_costs
from lastlayer.decide.cross_sets import CrossSets as CrossSets
from lastlayer.decide.decisions import Decisions as Decisions
from lastlayer.decide.decisions import Summary as Summary
from lastlayer.decide.label_sets import LabelSets as LabelSets
from lastlayer.decide.policy import Policy as Policy
from lastlayer.decide.threshold import Coverage as Coverage
from lastlayer.decide.threshold import Risk as Risk
from lastlayer.decide.threshold import Threshold as Threshold
from lastlayer.decide.threshold_by_part import Thresholds as Thresholds
from lastlayer.decide.tuned import Tuned as Tuned
