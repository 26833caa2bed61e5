"""How a call runs once it is known what to run, and how it is recorded.

`launch` and `launch_body` make what an op remembers for a combination of specs and attributes, the `of_` functions the short
ways to it. They are the same three steps, run, wrap, record, in the forms that are worth their lines: this is the path of every
eager call.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias, TypeVar

import numpy as np

import needle_core as ndl  # the ops, which need this first
from needle_core import record
from needle_core.errors import BoundsError, KernelError, NeedleError, brief
from needle_core.record import Narrowing, Node, Symbol, mode
from needle_core.spec import DEFAULT, MEET, DType, Spec, float32
from needle_core.tensor import Tensor, buffer_of, constant, leaked, tensor_of

if TYPE_CHECKING:
    from needle_core.op import Op

PLANNED_FROM: Final = 3
"""The call, of an op with the same specs or of an optimizer, from which on a backend that plans eager calls gets a plan."""

OURS: Final = "needle_core."
"""The modules of ops whose bodies depend on nothing but their operands, which a body of another package may not."""

R = TypeVar("R")
Run: TypeAlias = Callable[..., Any]

_buffer_of = attrgetter("buffer")


def launch(op: Op[..., Any], kernel: Callable[..., Any], spec: Spec | tuple[Spec, ...], attrs: dict[str, Any]) -> Run:
    """Run a kernel on the operands' buffers, and record the call if a gradient flows through an operand."""
    if isinstance(spec, tuple):
        return _launch_many(op, kernel, spec, attrs)
    if len(op.operands) == 1 and not op.operands[0].startswith("*"):
        return _launch_one(op, kernel, spec, attrs)
    floating = spec.dtype.is_floating

    def run(*args: Tensor) -> Tensor:
        buffers = (*map(_buffer_of, args),)
        try:
            y = tensor_of(spec, kernel(*buffers))
        except Exception as cause:
            fail(op, cause, args)
        for a in args:
            if a.tracked:
                if mode.grad and floating:
                    y.node, y.tracked = Node(op, args, buffers, attrs, spec), True
                break
        return y

    return run


def _launch_one(op: Op[..., Any], kernel: Callable[..., Any], spec: Spec, attrs: dict[str, Any]) -> Run:
    """The same for one operand, in 0.2 us less."""
    floating = spec.dtype.is_floating

    def run(a: Tensor) -> Tensor:
        u = a.buffer
        try:
            y = tensor_of(spec, kernel(u))
        except Exception as cause:
            fail(op, cause, (a,))
        if a.tracked and floating and mode.grad:
            y.node = Node(op, (a,), (u,), attrs, spec)
            y.tracked = True
        return y

    return run


def _launch_many(op: Op[..., Any], kernel: Callable[..., Any], specs: tuple[Spec, ...], attrs: dict[str, Any]) -> Run:
    def run(*args: Tensor) -> tuple[Tensor, ...]:
        buffers = (*map(_buffer_of, args),)
        try:
            results = kernel(*buffers)
            if not isinstance(results, tuple | list) or len(results) != len(specs):
                count = f"{len(results)} results" if isinstance(results, tuple | list) else brief(results)
                raise KernelError(f"the kernel returned {count}, not a tuple of {len(specs)}", details=op.blame(args))
        except Exception as cause:
            fail(op, cause, args)
        return record_many(op, args, buffers, tuple(results), specs, attrs)

    return run


def launch_body(op: Op[..., Any], body: Callable[..., Any], spec: Spec | tuple[Spec, ...], attrs: dict[str, Any]) -> Run:
    """Run a composite; if it has a gradient rule of its own, its body goes unrecorded, and the call is recorded as one node.

    Where the body goes unrecorded, it can be one program.
    """
    is_ruled = op.rules is not None or op.joint is not None
    backend = (spec[0] if isinstance(spec, tuple) else spec).device.backend
    plans = mode.trace is None and backend.plans_eagerly and op.__module__.startswith(OURS)
    calls: int = 0
    whole: Run | None = None

    def run(*args: Tensor) -> Any:
        nonlocal calls, whole
        if mode.autocast is not None:  # it computes as it does where there is a kernel for it
            with Narrowing(None):
                return run(*args)
        if plans and (is_ruled or not _is_recorded(args)):
            if whole is None:
                calls += 1
                if calls == PLANNED_FROM:
                    whole = _planned(op, spec, args, attrs)
            if whole is not None:
                return whole(*args)
        if not (is_ruled and _is_recorded(args)):
            result = body(*args, **attrs)
            _require_promised(op, result, spec, args)
            return own(result, args)
        buffers = (*map(buffer_of, args),)
        mode.grad = False
        try:
            result = body(*args, **attrs)
        finally:
            mode.grad = True
        _require_promised(op, result, spec, args)
        if isinstance(spec, tuple):
            return record_many(op, args, buffers, tuple(map(buffer_of, result)), spec, attrs)
        y = tensor_of(spec, buffer_of(result))
        if spec.dtype.is_floating:
            y.node = Node(op, args, buffers, attrs, spec)
            y.tracked = True
        return y

    return run


def narrowed(op: Op[..., Any], specs: tuple[Spec, ...], attrs: dict[str, Any]) -> Run:
    """What to run for a product within `ndl.autocast`: it itself between casts, or its body, whose products are narrowed.

    Its body is recorded where there is no kernel that would be faster, or no gradient but the body's. The casts are recorded
    too, so that gradients are computed in half precision. What is not computed in float32 is computed as always.
    """
    half, dtypes = mode.autocast, op.promoted([s.dtype for s in specs])
    spec, _ = op.door(*(s.like(dtype=d) for s, d in zip(specs, dtypes, strict=True)), **attrs)
    if half is not None and {d for d in dtypes if d.is_floating} == {float32}:
        is_ruled = op.rules is not None or op.joint is not None
        if op.body is not None and not (is_ruled and op.kernel_for(spec) is not None):
            return in_class(spec.__class__, lambda *args: own(op.run_body(*args, **attrs), args))
        dtypes = [half if d is float32 else d for d in dtypes]

    def cast(x: Tensor, dtype: DType) -> Tensor:
        return x if x.spec.dtype is dtype else ndl.ops.astype(x, dtype=dtype)

    def run(*args: Tensor) -> Any:
        with Narrowing(None):
            y = op(*map(cast, args, dtypes), **attrs)
            if isinstance(spec, tuple):
                return tuple(cast(z, s.dtype) for z, s in zip(y, spec, strict=True))
            return cast(y, spec.dtype)

    return in_class(spec.__class__, run)


def _is_recorded(args: tuple[Tensor, ...]) -> bool:
    """Whether a gradient flows through one of these."""
    return mode.grad and any(a.tracked for a in args)


def _planned(op: Op[..., Any], spec: Spec | tuple[Spec, ...], args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Run | None:
    """What to run where the body of a composite can be one program."""
    from needle_core.graph.bodies import program_of_body

    program = program_of_body(op, spec, args, attrs)
    return launch(op, program, spec, attrs) if program is not None else None


def write_down(op: Op[..., Any], spec: Spec | tuple[Spec, ...], attrs: dict[str, Any]) -> Run:
    """Instead of running a kernel, make a node of the graph that this thread captures. Gradients are recorded as always."""

    def run(*args: Tensor) -> Any:
        trace = mode.trace
        assert trace is not None
        values = tuple(map(trace.read, args))
        made = trace.add(op, values, attrs, spec)
        if isinstance(spec, tuple):
            return record_many(op, args, values, made, spec, attrs)
        y = tensor_of(spec, made[0])
        if mode.grad and spec.dtype.is_floating and any(a.tracked for a in args):
            y.node, y.tracked = Node(op, args, values, attrs, spec), True
        return y

    return run


def _require_promised(op: Op[..., Any], result: Any, spec: Spec | tuple[Spec, ...], args: tuple[Tensor, ...]) -> None:
    """Refuse what a body returned if it is not what the door has promised."""
    if isinstance(result, Tensor) and result.spec is spec:
        return
    specs = spec if isinstance(spec, tuple) else (spec,)
    results = result if isinstance(spec, tuple) and isinstance(result, tuple | list) else (result,)
    found = [y.spec if isinstance(y, Tensor) else brief(y) for y in results]
    if found != [*specs]:
        details = {"returned": ", ".join(map(str, found)), "promised": ", ".join(map(str, specs))}
        error = KernelError("the body returned something else than the front door has promised", details=details)
        raise error.located(op.name, op.describe(args))


def in_class(cls: type, run: Run) -> Run:
    """`run` with its results in the class of tuples in which the door gave their specs: a named tuple, or one of a plugin."""
    if cls is Spec or cls is tuple:
        return run
    make = getattr(cls, "_make", cls)
    return lambda *args: make(run(*args))


def record_many(
    op: Op[..., Any],
    args: tuple[Tensor, ...],
    buffers: tuple[Any, ...],
    results: tuple[Any, ...],
    specs: tuple[Spec, ...],
    attrs: dict[str, Any],
) -> tuple[Tensor, ...]:
    """The results of an op with several as tensors, recorded as one node if a gradient flows through an operand."""
    ys = tuple(map(tensor_of, specs, results))
    if mode.grad and any(a.tracked for a in args):
        node = Node(op, args, buffers, attrs, specs)
        node.outputs = results
        for i, y in enumerate(ys):
            if y.spec.dtype.is_floating:
                y.node, y.index, y.tracked = node, i, True
    return ys


def fail(op: Op[..., Any], cause: Exception, args: tuple[Any, ...]) -> NoReturn:
    """Raise the error for an exception of a kernel."""
    if stray := [a for a in args if isinstance(a, Tensor) and isinstance(a.buffer, Symbol)]:
        raise leaked(stray[0]).located(op.name, op.describe(args)) from cause
    if isinstance(cause, NeedleError):
        raise cause.located(op.name, op.describe(args))
    if isinstance(cause, IndexError) and any(isinstance(a, Tensor) and a.spec.dtype.is_integer for a in args):
        error: NeedleError = BoundsError(str(cause))
    elif isinstance(cause, MemoryError):
        error = KernelError(f"out of memory: {cause}")
    else:
        summary = f"the kernel raised {type(cause).__name__}: {cause}".removesuffix(": ")
        error = KernelError(summary, details=op.blame(args))
    raise error.located(op.name, op.describe(args)) from cause


def of_one(op: Op[..., R], singles: dict[Spec, Run]) -> Callable[[Any], R]:
    """`op(a)` for a tensor `a` without what other calls need, which saves 0.3 us."""

    def call(a: Any) -> Any:
        run = singles.get(a.spec)
        return op(a) if run is None else run(a)

    return call


def of_shape(op: Op[..., R], runs: dict[Any, Run]) -> Callable[..., R]:
    """`op(a, shape=shape)` for a tensor `a` without what other calls need, which saves 1 us. The sizes may stand alone."""

    def call(a: Any, *shape: Any) -> Any:
        if len(shape) == 1 and shape[0].__class__ is not int:
            (shape,) = shape
        try:
            run = runs[a.spec, "shape", shape, (*map(type, shape),)]  # the form of op._key
        except (AttributeError, KeyError, TypeError):
            return op(a, shape=shape)
        return run(a)

    return call


def of_two(op: Op[..., R], pairs: dict[Any, tuple[Any, ...]]) -> Callable[[Any, Any], R]:
    """`op(a, b)` for a tensor `a` without what other calls need, which saves 0.5 us: the operators of tensors are these."""
    is_product = op.is_product

    def call(a: Any, b: Any) -> Any:
        try:
            kernel, spec, attrs, floating = pairs[a.spec, b.spec]
        except (AttributeError, KeyError):
            kernel = None
        if kernel is None or (is_product and not record.exact and mode.autocast is not None):
            kind = b.__class__
            if kind in DEFAULT:
                return call(a, constant(b, MEET[a.spec.dtype, kind], a.spec.device))
            known = isinstance(b, Tensor | np.ndarray | np.generic) or kind is list or kind is tuple
            return op(a, b) if known else NotImplemented  # other classes have a turn of their own
        u, v = a.buffer, b.buffer
        try:
            y = tensor_of(spec, kernel(u, v))
        except Exception as cause:
            fail(op, cause, (a, b))
        if (a.tracked or b.tracked) and floating and mode.grad:
            y.node = Node(op, (a, b), (u, v), attrs, spec)
            y.tracked = True
        return y

    return call


def own(result: Any, args: tuple[Tensor, ...]) -> Any:
    """What a body returned, as tensors of its own: an operand that came back would take part in what becomes of the result."""
    if isinstance(result, tuple | list):
        return tuple(own(y, args) for y in result)
    return ndl.ops.positive(result) if any(result is a for a in args) else result
