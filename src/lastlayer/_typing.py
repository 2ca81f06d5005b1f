"""Shapes in signatures: ``Float[Array, "*batch classes"]``.

The hints cost nothing at run time. Where jaxtyping is already loaded (the test run loads it, with
``--jaxtyping-packages``) they are real, and every annotated call of the suite is checked against them.
"""

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

Array: TypeAlias = Any  # a NumPy, PyTorch, JAX or array-API array

if TYPE_CHECKING:
    from typing import Annotated as Bool
    from typing import Annotated as Float
    from typing import Annotated as Int
elif "jaxtyping" in sys.modules:
    import jaxtyping

    class _Hint:
        """A jaxtyping hint that also lets through what ``np.asarray`` takes: numbers and nested lists of them."""

        def __init__(self, kind):
            self.kind = kind

        def __getitem__(self, item):
            return self.kind[item] | float | int | bool | list | tuple

    Float, Int, Bool = _Hint(jaxtyping.Real), _Hint(jaxtyping.Integer), _Hint(jaxtyping.Bool)
else:

    class _Inert:
        def __class_getitem__(cls, item):
            return Any

    Float = Int = Bool = _Inert
