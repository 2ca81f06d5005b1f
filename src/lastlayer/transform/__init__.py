"""Logits, without a target, to another view of the same rows."""

from lastlayer.transform.confidence import entropy as entropy
from lastlayer.transform.confidence import log_odds as log_odds
from lastlayer.transform.confidence import top2_gap as top2_gap
from lastlayer.transform.sigmoid import log1mexp as log1mexp
from lastlayer.transform.sigmoid import log_sigmoid as log_sigmoid
from lastlayer.transform.sigmoid import logit as logit
from lastlayer.transform.sigmoid import sigmoid as sigmoid
from lastlayer.transform.sigmoid import softcap as softcap
from lastlayer.transform.sigmoid import softplus as softplus
from lastlayer.transform.softmax import log_softmax as log_softmax
from lastlayer.transform.softmax import logsumexp as logsumexp
from lastlayer.transform.softmax import softmax as softmax
