"""What an op, or a backend, is proved right with: samples and references of every op, and the checks that use them.

`samples` is the language of the declarations, which stand in one module for each family of ops; `check` and `layouts` use them.
"""

from needle_core.testing import activation, create, elementary, elementwise, index, linalg, loss, normalize, reduce, shape
from needle_core.testing.samples import CASES, Case

__all__ = [
    "CASES", "Case", "activation", "create", "elementary", "elementwise", "index", "linalg", "loss", "normalize", "reduce",
    "shape",
]  # fmt: skip
