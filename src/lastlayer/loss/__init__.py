"""What the last layer said against what it should have said: one number per row.

cross_entropy, binary, teacher, distillation     classes, labels, other models
focal, imbalance                                 rows and classes that count differently
margin, ordinal, fenchel_young                   distances, orders, sparse probabilities
contrastive, contrastive_pairs                   which of many belong together
ranking, listwise, sampled                       what comes before what
policy, preference                               actions, rewards, comparisons
penalty                                          the few that speak of a whole batch
"""

from lastlayer.loss.binary import binary_cross_entropy as binary_cross_entropy
from lastlayer.loss.binary import multilabel_cross_entropy as multilabel_cross_entropy
from lastlayer.loss.contrastive import clip as clip
from lastlayer.loss.contrastive import info_nce as info_nce
from lastlayer.loss.contrastive import nt_xent as nt_xent
from lastlayer.loss.contrastive import sup_con as sup_con
from lastlayer.loss.contrastive_pairs import siglip as siglip
from lastlayer.loss.contrastive_pairs import triplet as triplet
from lastlayer.loss.cross_entropy import cross_entropy as cross_entropy
from lastlayer.loss.distillation import distill as distill
from lastlayer.loss.fenchel_young import fenchel_young as fenchel_young
from lastlayer.loss.focal import asymmetric as asymmetric
from lastlayer.loss.focal import binary_focal as binary_focal
from lastlayer.loss.focal import focal as focal
from lastlayer.loss.focal import poly as poly
from lastlayer.loss.imbalance import balanced_softmax as balanced_softmax
from lastlayer.loss.imbalance import class_balanced_weights as class_balanced_weights
from lastlayer.loss.imbalance import ldam as ldam
from lastlayer.loss.imbalance import logit_adjusted as logit_adjusted
from lastlayer.loss.listwise import list_mle as list_mle
from lastlayer.loss.listwise import list_net as list_net
from lastlayer.loss.margin import am_softmax as am_softmax
from lastlayer.loss.margin import arcface as arcface
from lastlayer.loss.margin import multiclass_hinge as multiclass_hinge
from lastlayer.loss.mean import mean as mean
from lastlayer.loss.ordinal import coral as coral
from lastlayer.loss.ordinal import cumulative_link as cumulative_link
from lastlayer.loss.penalty import confidence_penalty as confidence_penalty
from lastlayer.loss.penalty import dca as dca
from lastlayer.loss.penalty import mmce as mmce
from lastlayer.loss.penalty import soft_ece as soft_ece
from lastlayer.loss.policy import grpo as grpo
from lastlayer.loss.policy import kl_to_reference as kl_to_reference
from lastlayer.loss.policy import policy_logp as policy_logp
from lastlayer.loss.policy import ppo as ppo
from lastlayer.loss.policy import reinforce as reinforce
from lastlayer.loss.policy import reinforce_leave_one_out as reinforce_leave_one_out
from lastlayer.loss.policy import sequence_logp as sequence_logp
from lastlayer.loss.preference import dpo as dpo
from lastlayer.loss.preference import ipo as ipo
from lastlayer.loss.preference import kto as kto
from lastlayer.loss.preference import orpo as orpo
from lastlayer.loss.preference import simpo as simpo
from lastlayer.loss.ranking import bpr as bpr
from lastlayer.loss.ranking import lambda_rank as lambda_rank
from lastlayer.loss.ranking import pair_hinge as pair_hinge
from lastlayer.loss.ranking import rank_net as rank_net
from lastlayer.loss.ranking import warp as warp
from lastlayer.loss.sampled import gbce as gbce
from lastlayer.loss.sampled import in_batch as in_batch
from lastlayer.loss.sampled import sampled_softmax as sampled_softmax
from lastlayer.loss.teacher import top_k_cross_entropy as top_k_cross_entropy
