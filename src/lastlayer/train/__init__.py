"""Data to a model that makes logits."""

from lastlayer.train.digits import digits as digits
