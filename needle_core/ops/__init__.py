"""The ops, by family. Those of plugins are found here by name, when first wanted."""

from __future__ import annotations

from typing import Any

from needle_core import op as _op
from needle_core.errors import ArgumentError
from needle_core.ops import (
    activation,
    attention,
    convolution,
    create,
    elementary,
    elementwise,
    index,
    interpolation,
    linalg,
    loss,
    normalize,
    pooling,
    recurrent,
    reduce,
    shape,
)
from needle_core.ops.activation import *
from needle_core.ops.attention import *
from needle_core.ops.convolution import *
from needle_core.ops.create import *
from needle_core.ops.elementary import *
from needle_core.ops.elementwise import *
from needle_core.ops.index import *
from needle_core.ops.interpolation import *
from needle_core.ops.linalg import *
from needle_core.ops.loss import *
from needle_core.ops.normalize import *
from needle_core.ops.pooling import *
from needle_core.ops.recurrent import *
from needle_core.ops.reduce import *
from needle_core.ops.shape import *

__all__ = []
__all__ += activation.__all__
__all__ += attention.__all__
__all__ += convolution.__all__
__all__ += create.__all__
__all__ += elementary.__all__
__all__ += elementwise.__all__
__all__ += index.__all__
__all__ += interpolation.__all__
__all__ += linalg.__all__
__all__ += loss.__all__
__all__ += normalize.__all__
__all__ += pooling.__all__
__all__ += recurrent.__all__
__all__ += reduce.__all__
__all__ += shape.__all__

for _name in __all__:
    if isinstance(globals()[_name], _op.Op):
        _op.register_op(globals()[_name])


def __getattr__(name: str) -> Any:
    """The op of a plugin. If the plugin is broken, PluginError, also in `hasattr`.

    An AttributeError would hide what is wrong: `from needle_core.ops import NAME` would only say that it cannot.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        return _op.find_op(name)
    except ArgumentError as unknown:
        raise AttributeError(str(unknown)) from None


def __dir__() -> list[str]:
    from needle_core.plugins import registry

    return sorted({*__all__, *registry.names("ops")})
