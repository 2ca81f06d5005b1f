"""What the last layer said against what it should have said: one number per row."""

from lastlayer.loss.cross_entropy import binary_cross_entropy as binary_cross_entropy
from lastlayer.loss.cross_entropy import cross_entropy as cross_entropy
from lastlayer.loss.cross_entropy import mean as mean
