"""Which ops a program uses, seen while it runs; when nobody looks, calls take not a nanosecond longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import needle_core.op as engine
from needle_core.autograd import no_grad
from needle_core.op import Op, forget_all


@dataclass
class Used:
    """An op that was used, and the ops `within` whose bodies it was; the program itself is "" there."""

    op: Op[..., Any]
    within: set[str] = field(default_factory=set)


Usage: TypeAlias = dict[str, Used]
"""What was used, by name: ops of the core and of plugins, and the program's own."""

_inside: ContextVar[str] = ContextVar("_inside", default="")


@contextmanager
def recorded() -> Iterator[Usage]:
    """Within it, all ops that are called are entered into what it gives, in all threads.

    So are those in the body of a composite for which the backend has a kernel: another backend may have none.
    """
    used: Usage = {}
    unfolded: set[tuple[str, str]] = set()

    def watch(op: Op[..., Any], run: Callable[..., Any], attrs: Mapping[str, Any]) -> Callable[..., Any]:
        def seen(*args: Any) -> Any:
            if _inside.get() != op.name:  # called again by itself, after promotion
                used.setdefault(op.name, Used(op)).within.add(_inside.get())
            token = _inside.set(op.name)
            try:
                if op.body is not None and (op.name, repr(attrs)) not in unfolded:
                    unfolded.add((op.name, repr(attrs)))
                    with no_grad():
                        op.run_body(*args, **attrs)
                return run(*args)
            finally:
                _inside.reset(token)
                op.forget()  # so that the next call is seen too

        return seen

    forget_all()
    engine.watcher = watch
    try:
        yield used
    finally:
        engine.watcher = None
        forget_all()
