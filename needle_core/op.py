"""What an op is, and how it is called.

An op is one object: a front door that meets what the user wrote, a body (a composite) or kernels (a primitive), and gradient
rules. Calling it looks up (op, specs, attributes) in one dictionary and runs what stands there. Only the first call of a
combination takes the long way: lift numbers and arrays to tensors, promote dtypes, ask the door, choose the kernel.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, update_wrapper
from operator import attrgetter
from typing import Any, Generic, ParamSpec, Self, TypeAlias, TypeVar

import numpy as np

from needle_core import record
from needle_core.errors import (
    ArgumentError,
    DeviceError,
    KernelError,
    MissingGradientError,
    NeedleError,
    brief,
)
from needle_core.launch import Run, fail, in_class, launch, launch_body, narrowed, of_one, of_shape, of_two, write_down
from needle_core.record import Node, mode
from needle_core.spec import DEFAULT, DType, Spec, promote
from needle_core.tensor import Tensor, constant, tensor_of

P = ParamSpec("P")
R = TypeVar("R")

Kernel: TypeAlias = Callable[..., Any]
Rule: TypeAlias = Callable[..., Any]
Door: TypeAlias = Callable[..., tuple[Spec | tuple[Spec, ...], dict[str, Any]]]

OPS: dict[str, Op[..., Any]] = {}
"""The ops of the core and of activated plugins, by name."""

KERNELS: dict[tuple[str, str], Kernel] = {}
"""The kernel table: (op, backend) -> kernel. It is read once for each op, specs and attributes."""

lock = threading.RLock()
"""Held while plugins are activated and backends opened. Whoever comes there with a lock of its own held must use this one."""

_made: weakref.WeakSet[Op[..., Any]] = weakref.WeakSet()
_memory = threading.Lock()  # held while ops remember what to run
_tracing = False  # a thread captures a graph: no op remembers a kernel meanwhile, and each call takes the long way

MEMO_LIMIT = 4096  # combinations an op remembers; shapes that never repeat must not fill the memory

watcher: Callable[[Op[..., Any], Run, Mapping[str, Any]], Run] | None = None
"""Sees what each new combination runs, and its attributes; may wrap it. Ops that ran before are seen after `forget`."""

_spec_of = attrgetter("spec")


class Op(Generic[P, R]):
    """A named function on tensors; made by `primitive`, `composite` or as a `TensorOp`.

    `operands` are the names of its tensor arguments, the last with a leading * if it takes any number of them; `body` is
    None for a primitive; `rules` are the gradient rules, one for each operand, or one joint rule for all. `is_product` says
    that it computes in half precision within `ndl.autocast`.
    """

    __name__: str
    is_product = False

    def __init__(self, function: Callable[P, R], door: Door, *, is_primitive: bool, is_product: bool) -> None:
        update_wrapper(self, function)
        self.is_product = is_product
        self.name = function.__name__
        self.family = function.__module__.rpartition(".")[2]
        self.door = door
        self.is_primitive = is_primitive
        self.body: Callable[..., Any] | None = None if is_primitive else function
        self.operands = operands(function)
        self.rules: tuple[Rule | None, ...] | None = None
        self.joint: Rule | None = None
        self._runs: dict[Any, Run] = {}
        self._pairs: dict[Any, tuple[Any, ...]] = {}  # for `of_two`: specs -> kernel, spec, attributes, whether to record
        self.of_two = of_two(self, self._pairs)
        self.of_shape = of_shape(self, self._runs)
        self._singles: dict[Spec, Run] = {}  # for `of_one`: what `_runs` has for one operand without attributes
        self.of_one = of_one(self, self._singles)
        self._weak: dict[Any, list[DType]] = {}  # specs, and types of Python numbers -> the dtypes in which they meet
        self._traced: dict[Any, Run] = {}  # as `_runs`, for calls that are written down instead of computed
        self._narrowed: dict[Any, Run] = {}  # and for calls within `ndl.autocast`, by its dtype too
        _made.add(self)

    @cached_property
    def signature(self) -> inspect.Signature:
        """The signature of the function that declared the op."""
        return inspect.signature(self.__wrapped__)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<{'primitive' if self.is_primitive else 'composite'} {self.name}{self._written()}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return find_op, (self.name,)

    def vjp(self, *rules: Rule | None) -> Self:
        """Give one gradient rule `(g, y, *inputs, **attrs) -> gradient` for each operand, written in ops.

        None says that an operand has no gradient by definition. What broadcasting did to an operand is undone for the rule.
        """
        if len(rules) != len(self.operands) or self.operands[-1].startswith("*"):
            raise ArgumentError(f"{self.name} has operands ({', '.join(self.operands)}), but {len(rules)} gradient rules")
        self.rules = rules
        return self

    def vjp_joint(self, rule: Rule) -> Self:
        """Give one rule `(g, y, *inputs, **attrs) -> (gradient, ...)` for all operands, where they share work."""
        self.joint = rule
        return self

    def __call__(self, *args: P.args, **attrs: P.kwargs) -> R:
        if not record.exact and self.is_product and mode.autocast is not None:
            return self._recall(self._narrowed, narrowed, args, attrs)  # type: ignore[no-any-return]
        if not attrs and len(args) == 2:  # as `of_two`, whose call would cost 0.1 us
            a: Any
            b: Any
            a, b = args
            try:
                kernel, spec, canonical, floating = self._pairs[a.spec, b.spec]
            except (AttributeError, KeyError):
                kernel = None
            if kernel is not None:
                u, v = a.buffer, b.buffer
                try:
                    y: Any = tensor_of(spec, kernel(u, v))
                except Exception as cause:
                    fail(self, cause, args)
                if (a.tracked or b.tracked) and floating and mode.grad:
                    y.node, y.tracked = Node(self, (a, b), (u, v), canonical, spec), True
                return y  # type: ignore[no-any-return]
        try:
            if not attrs and len(args) == 1:
                run = self._singles[args[0].spec]  # type: ignore[attr-defined]
            else:
                run = self._runs[_key((*map(_spec_of, args),), attrs)]
        except (AttributeError, KeyError, TypeError):  # a number or array; a new combination; an attribute written as a list
            run = None
        if run is None:
            return self._meet(args, attrs)  # type: ignore[no-any-return]
        return run(*args)  # type: ignore[no-any-return]

    # -- the long way, once for each combination ------------------------------------------------------------------------

    def _meet(self, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        """Make tensors of the arguments, find out what to run, remember it, and run it."""
        kinds = tuple([a.spec if isinstance(a, Tensor) else a.__class__ for a in args])
        if kinds in self._weak:  # numbers that met these specs before
            device = next((a.spec.device for a in args if isinstance(a, Tensor)), None)
            dtypes = self._weak[kinds]
            args = tuple([a if isinstance(a, Tensor) else constant(a, d, device) for a, d in zip(args, dtypes, strict=True)])
            return self(*args, **attrs)
        if self._is_listed(args):
            args = tuple(args[0])
            if all(isinstance(a, Tensor) for a in args):
                return self(*args, **attrs)
        if mode.trace is not None:
            return self._recall(self._traced, Op._bind, args, attrs)
        try:
            self._check_arguments(args, attrs)
            tensors = self._lift(args)
            specs = tuple(t.spec for t in tensors)
            run = self._bind(specs, attrs)
        except NeedleError as error:
            raise error.located(self.name, self.describe(args)) from error.__cause__
        if watcher is not None:
            run = watcher(self, run, attrs)
        if all(map(_is_key, attrs.values())):
            if len(self._runs) >= MEMO_LIMIT:
                self.forget()
            if any(a.__class__ in DEFAULT for a in args) and all(isinstance(a, Tensor) or a.__class__ in DEFAULT for a in args):
                self._weak[kinds] = [s.dtype for s in specs]
            with _memory:
                if not _tracing:
                    self._runs[_key(specs, attrs)] = run
                    if len(specs) == 1 and not attrs:
                        self._singles[specs[0]] = run
        result = run(*tensors)
        for y in result if isinstance(result, tuple) else (result,):
            self._check_result(y)
        return result

    def _recall(self, memo: dict[Any, Run], bind: Callable[..., Run], args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        """`_meet` with a memory of its own: for threads that capture, and for products within `ndl.autocast`."""
        try:
            key = mode.autocast, _key((*map(_spec_of, args),), attrs)
            run = memo.get(key)
        except (AttributeError, TypeError):
            run = None
        if run is None:
            try:
                args = tuple(args[0]) if self._is_listed(args) else args
                self._check_arguments(args, attrs)
                args = self._lift(args)
                specs = (*map(_spec_of, args),)
                run = bind(self, specs, attrs)
            except NeedleError as error:
                raise error.located(self.name, self.describe(args)) from error.__cause__
            if all(map(_is_key, attrs.values())) and len(memo) < MEMO_LIMIT:
                memo[mode.autocast, _key(specs, attrs)] = run
        return run(*args)

    def _check_result(self, y: Tensor) -> None:
        """Refuse what a kernel returned if it is not what the door said; done for the first call of a combination."""
        try:
            shape, dtype = y.spec.device.backend.describe(y.buffer)
        except Exception as cause:
            raise self._returned(brief(y.buffer), y) from cause
        if shape != y.spec.shape or dtype != y.spec.dtype:
            raise self._returned(f"{dtype}{list(shape)}", y)

    def _returned(self, found: str, y: Tensor) -> KernelError:
        """The error for what a kernel returned; what was remembered of the op is forgotten, so that it is looked at again."""
        self.forget()
        details = {"expected": y.spec, **self.blame((y,))}
        return KernelError(f"{self.name}: the kernel returned {found}", details=details)

    def _is_listed(self, args: tuple[Any, ...]) -> bool:
        """Whether a list takes the place of operands: concat([a, b]) says the same as concat(a, b)."""
        return len(args) == 1 and bool(self.operands) and self.operands[0].startswith("*") and isinstance(args[0], list | tuple)

    def _check_arguments(self, args: tuple[Any, ...], attrs: Mapping[str, Any]) -> None:
        parameters = self.signature.parameters.values()
        known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        hint = f"attributes are keywords: {self.name}{self._written()}" if known else None
        self._check_count(args, hint if len(args) > len(self.operands) else None)
        lists = [a for a in args if isinstance(a, list | tuple) and any(isinstance(x, Tensor) for x in a)]
        if lists and len(args) > 1 and self.operands[-1].startswith("*"):
            raise ArgumentError("a list of tensors stands alone, or the tensors without a list", hint=hint)
        if unknown := [name for name in attrs if name not in known]:
            raise ArgumentError(f"has no attribute {unknown[0]!r}", details={"attributes": ", ".join(known) or "none"})
        required = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        if missing := [name for name in required if name not in attrs]:
            raise ArgumentError(f"needs the attribute {missing[0]!r}", hint=f"{self.name}{self._written()}")

    def _check_count(self, args: tuple[Any, ...], hint: str | None = None) -> None:
        variadic = bool(self.operands) and self.operands[-1].startswith("*")
        least = max(1, len(self.operands) - 1) if variadic else len(self.operands)
        if len(args) < least or (len(args) > least and not variadic):
            named = f" ({', '.join(self.operands)})" if self.operands else ""
            number = f"{'at least ' if variadic else ''}{least or 'no'} tensor{'s' * (least != 1)}"
            raise ArgumentError(f"takes {number}{named}, got {len(args)}", hint=hint)

    def _written(self) -> str:
        bare = [p.replace(annotation=p.empty) for p in self.signature.parameters.values()]
        return str(self.signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))

    def _lift(self, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Tensors of all arguments, on their common device, in the dtypes that the door's promotion rule asks for."""
        devices = {a.spec.device for a in args if isinstance(a, Tensor)}
        if len(devices) > 1:
            raise DeviceError("operands are on different devices", hint="x.to(device) copies a tensor")
        device = devices.pop() if devices else None
        lifted = [a if type(a) in DEFAULT or isinstance(a, Tensor) else Tensor(a, device=device) for a in args]
        dtypes = self.promoted([a.spec.dtype if isinstance(a, Tensor) else type(a) for a in lifted])
        return tuple(a if isinstance(a, Tensor) else constant(a, d, device) for a, d in zip(lifted, dtypes, strict=True))

    def promoted(self, dtypes: list[Any]) -> list[DType]:
        """The dtype that each operand is to have, by the door's promotion rule; without one, its own."""
        rule = getattr(self.door, "promotion", None)
        return list(rule(*dtypes)) if rule else [promote(d) for d in dtypes]

    def _bind(self, specs: tuple[Spec, ...], attrs: dict[str, Any]) -> Run:
        """What to run for operands of these specs with these attributes."""
        dtypes = self.promoted([s.dtype for s in specs])
        if any(s.dtype is not d for s, d in zip(specs, dtypes, strict=True)):
            self.door(*(s.like(dtype=d) for s, d in zip(specs, dtypes, strict=True)), **attrs)  # refuses what was written
            astype = OPS["astype"]
            return lambda *args: self(
                *(a if a.spec.dtype is d else astype(a, dtype=d) for a, d in zip(args, dtypes, strict=True)),
                **attrs,
            )
        spec, canonical = self.door(*specs, **attrs)
        run = self._runner(specs, spec, canonical)
        return in_class(spec.__class__, run)

    def _runner(self, specs: tuple[Spec, ...], spec: Spec | tuple[Spec, ...], canonical: dict[str, Any]) -> Run:
        """What to run where the door has given this output and these canonical attributes."""
        if mode.trace is not None:
            if self.body is None or self.kernel_for(spec) is not None:
                return write_down(self, spec, canonical)
            return launch_body(self, self.body, spec, canonical)
        bound = self.bound(specs, spec, canonical)
        if bound is None:
            assert self.body is not None
            return launch_body(self, self.body, spec, canonical)
        if len(specs) == 2 and not canonical and not isinstance(spec, tuple):
            with _memory:
                if not _tracing:
                    self._pairs[specs] = (bound, spec, canonical, spec.dtype.is_floating)
        return launch(self, bound, spec, canonical)

    def kernel_for(self, spec: Spec | tuple[Spec, ...]) -> Kernel | None:
        """The kernel for this output, if its backend has one."""
        backend = (spec[0] if isinstance(spec, tuple) else spec).device.backend
        if (self.name, backend.name) not in KERNELS and OPS.get(self.name) is not self:
            from needle_core.plugins import registry

            registry.activate_home(self)  # it was imported from its plugin instead of found by name
        return KERNELS.get((self.name, backend.name))

    def bound(
        self, specs: tuple[Spec, ...], spec: Spec | tuple[Spec, ...], attrs: Mapping[str, Any]
    ) -> Callable[..., Any] | None:
        """The kernel for these operands, bound to its canonical attributes; None for a composite that runs through its body.

        Raises MissingKernelError for a primitive without a kernel, unless NEEDLE_FALLBACK lets the host compute it.
        """
        kernel = self.kernel_for(spec)
        if kernel is not None:
            backend = (spec[0] if isinstance(spec, tuple) else spec).device.backend
            return backend.bind(kernel, attrs, specs, spec)
        if self.body is not None:
            return None
        from needle_core.fallback import host_kernel

        return host_kernel(self.name, attrs, specs, spec)

    def run_body(self, *tensors: Tensor, **attrs: Any) -> Any:
        """What the body of a composite gives, also where a backend has a kernel for it."""
        if self.body is None:
            raise ArgumentError(f"{self.name} is a primitive and has no body")
        dtypes = self.promoted([t.spec.dtype for t in tensors])
        ready = [t if t.spec.dtype is d else OPS["astype"](t, dtype=d) for t, d in zip(tensors, dtypes, strict=True)]
        return self.body(*ready, **self.door(*map(_spec_of, ready), **attrs)[1])

    def forget(self) -> None:
        """Ask doors and kernels anew from now on."""
        for memo in (self._runs, self._singles, self._pairs, self._weak, self._traced, self._narrowed):
            memo.clear()

    def describe(self, args: tuple[Any, ...]) -> dict[str, object]:
        """The operands as an error shows them."""
        names: Iterable[str] = self.operands
        if self.operands and self.operands[-1].startswith("*"):
            fixed, rest = self.operands[:-1], self.operands[-1][1:]
            names = [*fixed, *(f"{rest}[{i}]" for i in range(len(args) - len(fixed)))]
        return {name: a.spec if isinstance(a, Tensor) else brief(a) for name, a in zip(names, args, strict=False)}

    def blame(self, args: tuple[Any, ...]) -> dict[str, object]:
        """Whose kernel runs on the device of these tensors, as an error shows it."""
        from needle_core.backend import maker
        from needle_core.plugins import registry

        device = next((a.spec.device for a in args if isinstance(a, Tensor)), None)
        if device is None:
            return {}
        plugin = registry.maker_of_kernel(self.name, device.backend.name) or maker(device.backend)
        return {"kernel": f"of {plugin}; `needle conform {plugin.distribution}` checks it"} if plugin else {}

    # -- gradients ------------------------------------------------------------------------------------------------------

    def pullback(
        self, g: Any, y: Any, inputs: tuple[Tensor, ...], attrs: Mapping[str, Any], needed: list[bool]
    ) -> Sequence[Tensor | None]:
        """All gradients at once, for an op without rules for each operand: by its joint rule, else through its body."""
        if self.joint is not None:
            return self.joint(g, y, *inputs, **attrs)  # type: ignore[no-any-return]
        if self.body is not None:
            from needle_core.autograd import pull_through

            return pull_through(self.body, g, inputs, attrs, needed)
        raise MissingGradientError("no gradient rule", hint=f"{self.name}.vjp(...) gives one rule for each operand")


@contextmanager
def nothing_remembered() -> Iterator[None]:
    """While a thread captures, no op knows a kernel by heart, so that every call comes to `_meet`, which asks for the trace.

    This is what keeps the short ways of eager calls free of a question. Other threads go on, more slowly.
    """
    global _tracing
    with lock:  # one at a time
        with _memory:
            _tracing = True
            kept = [(memo, dict(memo)) for op in list(_made) for memo in (op._runs, op._singles, op._pairs) if memo]
            for memo, _ in kept:
                memo.clear()
        try:
            yield
        finally:
            with _memory:
                _tracing = False
                for memo, known in kept:
                    memo.update(known)


def primitive(door: Door, *, product: bool = False) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Declare an op that backends must supply a kernel for: the function gives name, operands, attributes and documentation.

    A `product` computes in half precision within `ndl.autocast`.
    """
    return lambda function: Op(function, door, is_primitive=True, is_product=product)


def composite(door: Door, *, product: bool = False) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Declare an op that is written in other ops: it runs everywhere, and a backend may supply a faster kernel of its name."""
    return lambda function: Op(function, door, is_primitive=False, is_product=product)


def register_op(op: Op[..., Any]) -> None:
    """Put `op` under its name into OPS; a name is taken once."""
    if OPS.setdefault(op.name, op) is not op:
        raise ArgumentError(f"an op is already called {op.name!r}")


def find_op(name: str) -> Op[..., Any]:
    """The op called `name`, of the core or of an installed plugin. Raises ArgumentError if there is none."""
    from needle_core.plugins import registry

    found = OPS.get(name) or registry.find("ops", name)
    if found is None:
        raise ArgumentError(f"no op is called {name!r}, in the core or in an installed plugin")
    return found


def register_kernels(backend: str, kernels: Mapping[str, Kernel]) -> None:
    """Enter a backend's kernels, op name to kernel, into the kernel table."""
    for name, kernel in kernels.items():
        KERNELS[name, backend] = kernel
        if name in OPS:
            OPS[name].forget()


def forget_all() -> None:
    """Let all ops ask doors, kernels and the watcher anew from now on."""
    for op in OPS.values():
        op.forget()


def operands(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's positional parameters, the last with a * if it takes any number."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    if code.co_flags & inspect.CO_VARARGS:
        return (*names, f"*{code.co_varnames[code.co_argcount + code.co_kwonlyargcount]}")
    return names


def _key(specs: tuple[Spec, ...], attrs: Mapping[str, Any]) -> Any:
    """What an op remembers a combination by: 1, 1.0 and True are equal, but not equal attributes."""
    if not attrs:
        return specs
    key: list[Any] = [*specs]
    for name, value in attrs.items():
        key += name, value, _kinds(value) if value.__class__ is tuple else value.__class__
    return (*key,)


def _kinds(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What tells a tuple from others that are equal to it: the types of its elements, down to those of tuples in it."""
    kinds: tuple[Any, ...] = (*map(type, values),)
    return kinds if tuple not in kinds else tuple([_kinds(v) if v.__class__ is tuple else v.__class__ for v in values])


def _is_key(value: Any) -> bool:
    """Whether an attribute, with its type and `_kinds`, is told from all others in a dictionary: 0.0 is not, nor is nan."""
    if isinstance(value, tuple):
        return all(map(_is_key, value))
    if isinstance(value, float | np.generic):
        return bool(value != 0 and value == value)
    try:
        hash(value)
    except TypeError:
        return False
    return True
