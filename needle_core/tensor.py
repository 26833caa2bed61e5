"""Tensor: a spec, a buffer, and the node that made it.

Tensors are values: nothing writes into a buffer that a tensor has, so tensors and nodes may share buffers. What can change is
which buffer a tensor has: assigning `w.data` puts a new value in the old one's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

import needle_core as ndl  # the ops that the operators stand for: they need Tensor first, so they are looked up when called
from needle_core import dlpack
from needle_core.convert import as_array, check_dtype, dtypes_in, zero_dimensional
from needle_core.errors import ArgumentError, CompileError, DeviceError, DtypeError, GradientError, ShapeError, brief
from needle_core.record import Symbol, mode
from needle_core.spec import DEFAULT, DTYPES, MEET, Device, DType, DTypeLike, Spec, promote

if TYPE_CHECKING:
    from needle_core.record import Node

Number: TypeAlias = bool | int | float
Operand: TypeAlias = "Tensor | Number | npt.NDArray[Any] | Sequence[Any]"
Axes: TypeAlias = int | Sequence[int] | None


class Tensor:
    """An array of numbers on a device, which remembers how it was computed if a gradient may be asked of it.

    `data` is anything that NumPy makes an array of, and is copied; its dtype is kept, while Python numbers become bool, int64
    or float32. `requires_grad` marks a leaf whose gradient `backward` leaves in `grad`.

    Raises: DtypeError for a dtype that Needle does not have or that cannot be differentiated.
    """

    __slots__ = ("__weakref__", "_grad", "buffer", "index", "node", "spec", "tracked")
    __array_ufunc__ = None  # ndarray + Tensor is Tensor.__radd__

    spec: Spec
    buffer: Any
    node: Node | None  # what made it, if it is differentiable and not a leaf
    index: int  # which of the node's outputs it is
    tracked: bool  # a gradient flows through it
    _grad: Tensor | type[NotKept] | None

    def __init__(
        self,
        data: Any,
        *,
        dtype: DTypeLike | None = None,
        device: Device | str | None = None,
        requires_grad: bool = False,
    ) -> None:
        where = ndl.default_device() if device is None else ndl.device(device)
        if isinstance(data, Tensor):
            source = data.detach() if device is None else data.detach().to(where)
            source = source if dtype is None else source.astype(dtype)
            self.spec, self.buffer = source.spec, buffer_of(source)
        else:
            array = as_array(data, dtype)
            self.spec = Spec.of(array.shape, DTYPES[array.dtype.name], where)
            buffer = where.backend.from_numpy(array, where)
            self.buffer = buffer if mode.trace is None else mode.trace.constant(self.spec, buffer)
        self.node, self.index, self._grad, self.tracked = None, 0, None, False
        self.requires_grad = requires_grad

    # -- what it is -----------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> DType:
        return self.spec.dtype

    @property
    def device(self) -> Device:
        return self.spec.device

    @property
    def ndim(self) -> int:
        return len(self.spec.shape)

    @property
    def size(self) -> int:
        return self.spec.size

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows to or through this tensor. Can be set on a leaf of floating dtype."""
        return self.tracked

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and not self.spec.dtype.is_floating:
            raise DtypeError(f"only floating tensors have gradients, not {self.spec.dtype}", details={"tensor": self.spec})
        if self.node is not None and not value:
            raise GradientError("the result of an op cannot stop requiring gradients", hint="x.detach() is free of the graph")
        self.tracked = bool(value)

    @property
    def is_leaf(self) -> bool:
        """True for a tensor that no recorded op made."""
        return self.node is None

    def __repr__(self) -> str:
        name = type(self).__name__
        if isinstance(self.buffer, Symbol) or mode.trace is not None:
            return f"{name}(captured, {self.spec})"
        values = np.array2string(self.numpy(), separator=", ", prefix=f"{name}(", threshold=200, edgeitems=3)
        tail = ", requires_grad=True" if self.tracked else ""
        return f"{name}({values}, {self.spec}{tail})"

    def __format__(self, spec: str) -> str:
        """The only element in the format given, as in f"{loss:.3f}"; without a format, the same as `str`."""
        return format(self.item(), spec) if spec else str(self)

    def __len__(self) -> int:
        if not self.spec.shape:
            raise ShapeError("a 0-d tensor has no length", details={"tensor": self.spec})
        return self.spec.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    __hash__ = object.__hash__  # tensors are keys by identity, although == compares elementwise

    # -- values in and out ----------------------------------------------------------------------------------------------

    @property
    def data(self) -> Tensor:
        """This value without its graph. Assigning puts a value of the same spec in its place; no graph comes with it."""
        return tensor_of(self.spec, buffer_of(self))

    @data.setter
    def data(self, value: Any) -> None:
        new = value if isinstance(value, Tensor) else self._take(value)
        if new.spec is not self.spec:
            kind = ShapeError if new.shape != self.shape else DtypeError if new.dtype is not self.dtype else DeviceError
            raise kind("data: the new value does not fit in the place of the old", details={"old": self.spec, "new": new.spec})
        if self.node is not None:
            raise GradientError("data: the result of an op takes no new value", hint="x.detach() is free of the graph")
        if mode.trace is None:
            self.buffer = new.buffer
        else:
            mode.trace.assign(self, mode.trace.read(new))

    def _take(self, value: Any) -> Tensor:
        """A tensor of numbers or arrays that are to be this one's value: floats may be rounded, but not cut to integers."""
        d = self.spec.dtype
        if not d.is_floating and promote(d, *dtypes_in([value])) is not d:
            raise DtypeError(f"data: {brief(value)} is not for {d}", details={"tensor": self.spec})
        return Tensor(value, dtype=d, device=self.spec.device)

    def detach(self) -> Tensor:
        """The same value, sharing its buffer, outside of any graph."""
        return tensor_of(self.spec, buffer_of(self))

    def numpy(self) -> npt.NDArray[Any]:
        """The values as a NumPy array: read-only, and without a copy where the memory is the host's."""
        buffer = self.buffer
        if mode.trace is not None:
            buffer = mode.trace.known(self)
        elif isinstance(buffer, Symbol):
            raise leaked(self)
        view = self.spec.device.backend.to_numpy(buffer).view()
        view.flags.writeable = False
        return view

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise DtypeError(f"the values are {self.dtype}; as {np.dtype(dtype)} they must be copied")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, *, max_version: tuple[int, int] | None = None, **options: Any) -> Any:
        """The values for another library: its view is read-only, or a copy if it is too old for read-only ones (DLPack 1.0)."""
        return dlpack.export(self._host(), max_version, options)

    def __dlpack_device__(self) -> tuple[Any, Any]:
        return self._host().__dlpack_device__()

    def _host(self) -> npt.NDArray[Any]:
        if not self.spec.device.backend.host:
            raise DeviceError(f"no DLPack view of a tensor on {self.spec.device}", details={"tensor": self.spec})
        return self.numpy()

    def item(self) -> Number:
        """The only element, as a Python number."""
        if self.size != 1:
            raise ShapeError("only a tensor of one element is a number", details={"tensor": self.spec})
        value: Number = self.numpy().reshape(()).tolist()
        return value

    def tolist(self) -> Any:
        return self.numpy().tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if not self.spec.dtype.is_integer:
            raise DtypeError(f"only an integer tensor is an index, not {self.spec.dtype}", details={"tensor": self.spec})
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), np.array(self.numpy()), self.spec.device, self.tracked and self.is_leaf)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A leaf with the same value, which shares the buffer: buffers are never written."""
        copy = object.__new__(type(self))
        copy.spec, copy.buffer, copy.node, copy.index, copy._grad = self.spec, buffer_of(self), None, 0, None
        copy.tracked = self.tracked and self.is_leaf
        return copy

    # -- gradients ------------------------------------------------------------------------------------------------------

    @property
    def grad(self) -> Tensor | None:
        """What `backward` has left here: a tensor like this one, or None."""
        g = self._grad if mode.trace is None else mode.trace.gradient(self)
        if g is NotKept:
            raise not_kept(self)
        return g  # type: ignore[return-value]

    @grad.setter
    def grad(self, g: Tensor | None) -> None:
        if mode.trace is None:
            self._grad = g
        else:
            mode.trace.set_gradient(self, g)

    def backward(self, gradient: Tensor | None = None, *, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor to `grad` of every leaf that requires one, and free the graph behind it.

        `gradient` is the gradient of the final value with respect to this tensor, same shape; 1 by default.
        """
        ndl.autograd.backward(self, gradient, retain_graph=retain_graph)

    # -- operators ------------------------------------------------------------------------------------------------------

    # The five that are called most are the ops themselves, as are `reshape` and `broadcast_to`: ops/elementwise.py, linalg.py
    # and shape.py put them here, for a method in between would take 0.1 us of 0.7.
    if TYPE_CHECKING:

        def __add__(self, other: Operand) -> Tensor: ...
        def __sub__(self, other: Operand) -> Tensor: ...
        def __mul__(self, other: Operand) -> Tensor: ...
        def __truediv__(self, other: Operand) -> Tensor: ...
        def __matmul__(self, other: Operand) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def broadcast_to(self, *shape: Any) -> Tensor: ...

    def __radd__(self, other: Operand) -> Tensor:
        return ndl.ops.add.of_two(_operand(self, other), self)

    def __rsub__(self, other: Operand) -> Tensor:
        return ndl.ops.subtract.of_two(_operand(self, other), self)

    def __rmul__(self, other: Operand) -> Tensor:
        return ndl.ops.multiply.of_two(_operand(self, other), self)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return ndl.ops.divide.of_two(_operand(self, other), self)

    def __floordiv__(self, other: Operand) -> Tensor:
        return ndl.ops.floor_divide(self, other)

    def __rfloordiv__(self, other: Operand) -> Tensor:
        return ndl.ops.floor_divide(other, self)

    def __mod__(self, other: Operand) -> Tensor:
        return ndl.ops.remainder(self, other)

    def __rmod__(self, other: Operand) -> Tensor:
        return ndl.ops.remainder(other, self)

    def __pow__(self, other: Operand) -> Tensor:
        squared = type(other) is int or (type(other) is float and self.spec.dtype.is_floating)
        return ndl.ops.square.of_one(self) if squared and other == 2 else ndl.ops.pow(self, other)

    def __rpow__(self, other: Operand) -> Tensor:
        return ndl.ops.pow(other, self)

    def __rmatmul__(self, other: Operand) -> Tensor:
        return ndl.ops.matmul.of_two(other, self)

    def __neg__(self) -> Tensor:
        return ndl.ops.negative.of_one(self)

    def __pos__(self) -> Tensor:
        return ndl.ops.positive(self)

    def __abs__(self) -> Tensor:
        return ndl.ops.abs(self)

    def __eq__(self, other: Operand) -> Tensor:  # type: ignore[override]  # elementwise, as in NumPy
        return ndl.ops.equal(self, other)

    def __ne__(self, other: Operand) -> Tensor:  # type: ignore[override]
        return ndl.ops.not_equal(self, other)

    def __lt__(self, other: Operand) -> Tensor:
        return ndl.ops.less(self, other)

    def __le__(self, other: Operand) -> Tensor:
        return ndl.ops.less_equal(self, other)

    def __gt__(self, other: Operand) -> Tensor:
        return ndl.ops.greater(self, other)

    def __ge__(self, other: Operand) -> Tensor:
        return ndl.ops.greater_equal(self, other)

    def __and__(self, other: Operand) -> Tensor:
        return ndl.ops.logical_and(*_bools("&", "logical_and", self, other))

    def __or__(self, other: Operand) -> Tensor:
        return ndl.ops.logical_or(*_bools("|", "logical_or", self, other))

    def __xor__(self, other: Operand) -> Tensor:
        return ndl.ops.logical_xor(*_bools("^", "logical_xor", self, other))

    def __invert__(self) -> Tensor:
        return ndl.ops.logical_not(*_bools("~", "logical_not", self))

    def __iadd__(self, other: Operand) -> Tensor:  # noqa: PYI034  # a new one
        return _rebindable(self) + other

    def __isub__(self, other: Operand) -> Tensor:  # noqa: PYI034  # a new one
        return _rebindable(self) - other

    def __imul__(self, other: Operand) -> Tensor:  # noqa: PYI034  # a new one
        return _rebindable(self) * other

    def __itruediv__(self, other: Operand) -> Tensor:  # noqa: PYI034  # a new one
        return _rebindable(self) / other

    def __getitem__(self, key: Any) -> Tensor:
        return ndl.ops.getitem(self, key)

    # -- methods that stand for ops -------------------------------------------------------------------------------------

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return ndl.ops.permute_dims(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return ndl.ops.matrix_transpose(self)

    def to(self, device: Device | str) -> Tensor:
        """This tensor on `device`: itself if it is there, else a copy through the host that gradients flow back through."""
        where = ndl.device(device)
        return self if where is self.spec.device else ndl.ops.to_device(self, device=where)

    def astype(self, dtype: DTypeLike) -> Tensor:
        return ndl.ops.astype(self, dtype=dtype)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes in the order given; reversed by default."""
        return ndl.ops.permute_dims(self, axes=_spread(axes) if axes else None)

    def flatten(self) -> Tensor:
        return ndl.ops.reshape(self, shape=(-1,))

    def sum(self, axis: Axes = None, *, keepdims: bool = False) -> Tensor:
        if axis is None and not keepdims:
            return ndl.ops.sum.of_one(self)
        return ndl.ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axes = None, *, keepdims: bool = False) -> Tensor:
        return ndl.ops.mean(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Axes = None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        return ndl.ops.var(self, axis=axis, correction=correction, keepdims=keepdims)

    def std(self, axis: Axes = None, *, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        return ndl.ops.std(self, axis=axis, correction=correction, keepdims=keepdims)

    def max(self, axis: Axes = None, *, keepdims: bool = False) -> Tensor:
        return ndl.ops.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axes = None, *, keepdims: bool = False) -> Tensor:
        return ndl.ops.min(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Axes = None, *, keepdims: bool = False) -> Tensor:
        return ndl.ops.prod(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Axes = None, *, keepdims: bool = False) -> Tensor:
        return ndl.ops.all(self, axis=axis, keepdims=keepdims)

    def any(self, axis: Axes = None, *, keepdims: bool = False) -> Tensor:
        return ndl.ops.any(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
        return ndl.ops.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
        return ndl.ops.argmin(self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int | None = None) -> Tensor:
        return ndl.ops.cumsum(self, axis=axis)


def tensor_of(spec: Spec, buffer: Any) -> Tensor:
    """A Tensor of what a kernel made; the one constructor that asks no questions."""
    t = _new(Tensor)
    t.spec = spec
    t.buffer = buffer
    t.node = None
    t.index = 0
    t._grad = None
    t.tracked = False
    return t


def constant(number: Number, dtype: DType, device: Device | None) -> Tensor:
    """The 0-d tensor of a Python number, kept with its device, for numbers in formulas come again at every step.

    Raises DtypeError if an integer is out of the dtype's range.
    """
    where = ndl.default_device() if device is None else device
    key = (number, number.__class__, dtype, math.copysign(1.0, number) if number == 0 else 1)
    kept = where.constants.get(key)
    if kept is None:
        array = zero_dimensional(number, dtype)
        array.flags.writeable = False  # it is lent to many
        kept = tensor_of(Spec.of((), dtype, where), where.backend.from_numpy(array, where))
        if len(where.constants) >= 1024:  # numbers that change at every step must not fill the memory
            where.constants.clear()
        where.constants[key] = kept
    return kept if mode.trace is None else mode.trace.number(kept, number)


def from_dlpack(source: Any, /, *, device: Device | str | None = None) -> Tensor:
    """A tensor that shares the memory of `source`, anything with `__dlpack__` on the host, which must not be written any more.

    Raises: DtypeError for a dtype that Needle does not have.
    """
    where = ndl.default_device() if device is None else ndl.device(device)
    if not hasattr(source, "__dlpack__"):
        raise ArgumentError(f"from_dlpack: {brief(source)} has no __dlpack__")
    array = dlpack.imported(source)
    check_dtype(array)
    spec, buffer = Spec.of(array.shape, DTYPES[array.dtype.name], where), where.backend.from_numpy(array, where)
    return tensor_of(spec, buffer if mode.trace is None else mode.trace.constant(spec, buffer))


def buffer_of(t: Tensor) -> Any:
    """The buffer of `t`, or what stands for it in the graph that this thread captures."""
    return t.buffer if mode.trace is None else mode.trace.read(t)


def leaked(t: Tensor) -> CompileError:
    """The error for a tensor of a captured computation that is used outside of it."""
    return CompileError(
        "this tensor belongs to a captured computation and has no numbers",
        details={"tensor": t.spec, "made by": t.buffer},
        hint="return it from the compiled function, or assign it to the data of a tensor made before",
    )


class NotKept:
    """In place of a gradient that a compiled step has made and not kept."""


def not_kept(t: Tensor) -> GradientError:
    """The error for a gradient that is `NotKept`."""
    return GradientError(
        "grad: the compiled step that made this gradient did not keep it",
        details={"tensor": t.spec},
        hint="ndl.compile(step, keep_grads=True)",
    )


_new: Callable[[type[Tensor]], Tensor] = object.__new__


def _operand(self: Tensor, other: Any) -> Any:
    """`other` ready for an arithmetic op with `self`: Python numbers become the constants that promotion would make of them."""
    kind = other.__class__
    if kind not in DEFAULT:
        return other
    return constant(other, MEET[self.spec.dtype, kind], self.spec.device)


def _bools(sign: str, name: str, *operands: Any) -> tuple[Any, ...]:
    """The operands of an operator that is for bools alone: of integers, NumPy's would work on bits."""
    for x in operands:
        if not (x.dtype.kind == "bool" if isinstance(x, Tensor) else np.asarray(x).dtype == bool):
            shown = x.spec if isinstance(x, Tensor) else brief(x)
            raise DtypeError(f"{sign} is for bools", details={"operand": shown}, hint=f"ndl.{name} takes any numbers")
    return operands


def _rebindable(x: Tensor) -> Tensor:
    """`x`, unless `x += ...`, which makes a new tensor, would leave a leaf as it is, as in a loop over parameters."""
    if x.tracked and x.node is None:
        raise GradientError(
            "+=, -=, *= and /= make a new tensor; the leaf that requires gradients would stay as it is",
            details={"leaf": x.spec},
            hint="p.data = p.data - ... gives it a new value",
        )
    return x


def _spread(args: tuple[Any, ...]) -> Any:
    """`f(2, 3)` and `f((2, 3))` say the same."""
    return args[0] if len(args) == 1 and not isinstance(args[0], int) else args


def _restore(kind: type[Tensor], array: npt.NDArray[Any], device: Device, requires_grad: bool) -> Tensor:
    source = Tensor(array, device=device)
    t = object.__new__(kind)
    t.spec, t.buffer, t.node, t.index, t._grad, t.tracked = source.spec, source.buffer, None, 0, None, requires_grad
    return t
