"""The contract of special values and exact tails as cases that any library can be run through.

    from lastlayer.conformance import CASES, check

    @pytest.mark.parametrize("case", [case for case in CASES if case.function == "softmax"], ids=str)
    def test_softmax(case):
        check(case, my_softmax, on="torch")

`run` takes a library through all of them; `subjects` has those we know. On the command line: ``lastlayer conformance``.
"""

from lastlayer.conformance.case import Case as Case
from lastlayer.conformance.case import load
from lastlayer.conformance.judge import Outcome as Outcome
from lastlayer.conformance.judge import Results as Results
from lastlayer.conformance.judge import check as check
from lastlayer.conformance.judge import judge as judge
from lastlayer.conformance.judge import run as run
from lastlayer.conformance.subjects import SUBJECTS as SUBJECTS
from lastlayer.conformance.subjects import Subject as Subject
from lastlayer.conformance.subjects import subjects as subjects

CASES = load()
