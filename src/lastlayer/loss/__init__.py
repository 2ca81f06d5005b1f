"""What the last layer said against what it should have said: one number per row."""

from lastlayer.loss.binary import binary_cross_entropy as binary_cross_entropy
from lastlayer.loss.binary import multilabel_cross_entropy as multilabel_cross_entropy
from lastlayer.loss.cross_entropy import cross_entropy as cross_entropy
from lastlayer.loss.mean import mean as mean
from lastlayer.loss.teacher import top_k_cross_entropy as top_k_cross_entropy
