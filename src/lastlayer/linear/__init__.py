"""The last layer itself, streamed: features and its weight to losses and statistics, without ever holding the logits.

Logits are made a tile at a time and used up where they stand; `plan` says which tiles a memory budget gives.
"""

from lastlayer.linear.cross_entropy import linear_cross_entropy as linear_cross_entropy
from lastlayer.linear.cross_entropy import linear_cross_entropy_grad as linear_cross_entropy_grad
from lastlayer.linear.plan import Plan as Plan
from lastlayer.linear.plan import plan as plan
from lastlayer.linear.second_order import HessianProduct as HessianProduct
from lastlayer.linear.second_order import linear_hessian_product as linear_hessian_product
from lastlayer.linear.stats import TopK as TopK
from lastlayer.linear.stats import linear_stats as linear_stats
