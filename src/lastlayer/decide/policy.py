"""What every decision policy is: a frozen record that maps `Outputs` to `Decisions` and can be written down as JSON."""

from typing import Any

from lastlayer.decide._record import Record
from lastlayer.decide.decisions import Decisions
from lastlayer.outputs import Outputs, wanted


class Policy(Record, kind="policy", called="a policy"):
    """A rule that accepts a row's class or has the row reviewed: ``policy(outputs)`` gives `Decisions`.

    A policy is a frozen dataclass of its own parameters with a ``name`` and ``decide``.

    >>> from lastlayer.decide import Cost
    >>> Policy.from_json(Cost(wrong=10, review=1).to_json())
    Cost(wrong=10, review=1)
    """

    def __call__(self, outputs: Outputs) -> Decisions:
        return self.decide(wanted(type(self).__name__, outputs))

    def decide(self, outputs: Outputs) -> Decisions:
        """What calling it does."""
        raise NotImplementedError

    def realised_cost(self, index, target) -> tuple[Any, Any]:
        """What acting on ``index`` cost each row and what its review would have cost; (None, None) without costs."""
        return None, None
