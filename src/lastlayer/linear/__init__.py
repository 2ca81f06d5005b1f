"""The last layer itself, streamed: features and its weight to losses and statistics, without ever holding the logits.

Logits are made a tile at a time and used up where they stand; `plan` says which tiles a memory budget gives.
"""

from lastlayer.linear.contrastive import linear_clip as linear_clip
from lastlayer.linear.contrastive import linear_clip_grad as linear_clip_grad
from lastlayer.linear.contrastive import linear_info_nce as linear_info_nce
from lastlayer.linear.contrastive import linear_info_nce_grad as linear_info_nce_grad
from lastlayer.linear.contrastive import linear_siglip as linear_siglip
from lastlayer.linear.contrastive import linear_siglip_grad as linear_siglip_grad
from lastlayer.linear.cross_entropy import linear_cross_entropy as linear_cross_entropy
from lastlayer.linear.cross_entropy import linear_cross_entropy_grad as linear_cross_entropy_grad
from lastlayer.linear.focal import linear_focal as linear_focal
from lastlayer.linear.focal import linear_focal_grad as linear_focal_grad
from lastlayer.linear.gradients import LinearGradients as LinearGradients
from lastlayer.linear.gradients import PairGradients as PairGradients
from lastlayer.linear.multilabel import linear_binary_focal as linear_binary_focal
from lastlayer.linear.multilabel import linear_binary_focal_grad as linear_binary_focal_grad
from lastlayer.linear.multilabel import linear_multilabel_cross_entropy as linear_multilabel_cross_entropy
from lastlayer.linear.multilabel import linear_multilabel_cross_entropy_grad as linear_multilabel_cross_entropy_grad
from lastlayer.linear.plan import Plan as Plan
from lastlayer.linear.plan import plan as plan
from lastlayer.linear.sampled import linear_sampled_softmax as linear_sampled_softmax
from lastlayer.linear.sampled import linear_sampled_softmax_grad as linear_sampled_softmax_grad
from lastlayer.linear.second_order import HessianProduct as HessianProduct
from lastlayer.linear.second_order import linear_hessian_product as linear_hessian_product
from lastlayer.linear.stats import linear_stats as linear_stats
from lastlayer.transform.row_stats import TopK as TopK
