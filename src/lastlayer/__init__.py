"""Everything between a model's last layer and the decision made from it."""

__version__ = "0.1.0"

from lastlayer.kernels import formulas as formulas
from lastlayer.loss import binary_cross_entropy as binary_cross_entropy
from lastlayer.loss import cross_entropy as cross_entropy
from lastlayer.loss import mean as mean
from lastlayer.outputs import Outputs as Outputs
from lastlayer.transform import entropy as entropy
from lastlayer.transform import log_odds as log_odds
from lastlayer.transform import log_sigmoid as log_sigmoid
from lastlayer.transform import log_softmax as log_softmax
from lastlayer.transform import logit as logit
from lastlayer.transform import logsumexp as logsumexp
from lastlayer.transform import sigmoid as sigmoid
from lastlayer.transform import softcap as softcap
from lastlayer.transform import softmax as softmax
from lastlayer.transform import softplus as softplus
from lastlayer.transform import top2_gap as top2_gap
