"""Writes the pages of this folder that follow from the code: `python docs/generate.py`. A test compares them with it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final, TypeAlias

from needle_core import default_device, doors, ops
from needle_core.errors import NeedleError
from needle_core.op import Op
from needle_core.plugins.registrar import Registrar
from needle_core.spec import DTYPES, DType, Spec
from needle_core.testing import CASES, samples
from needle_core.testing.optimizers import OptimizerCase
from needle_core.testing.samples import EVERY, FLOATING, NUMBERS, Case, Input, Sample

Call: TypeAlias = tuple[tuple[Spec, ...], Any, dict[str, Any]]

FAMILIES: Final = (
    ops.elementwise, ops.elementary, ops.activation, ops.reduce, ops.shape, ops.index, ops.linalg, ops.convolution, ops.pooling,
    ops.interpolation, ops.recurrent, ops.attention, ops.normalize, ops.loss, ops.create,
)  # fmt: skip

OPS_PAGE: Final = """\
# The ops

{count} ops, {primitives} of them primitive, by family. All are `ndl.NAME` and `ndl.ops.NAME`; tensors are positional arguments,
attributes are keywords. This page is made from their docstrings by `make docs`.

- **kind**: a *primitive* has a kernel in every backend. A *composite* is written in other ops and runs everywhere; a backend
  may have a faster kernel for it. A *function* calls ops, and is none itself. A *product* computes in half precision within
  [`ndl.autocast`](mixed-precision.md).
- **gradient**: by *rules*, one for each operand, or one *joint rule* for all; *through its body*, the ops that it is written
  in; or *none*, where the result does not depend smoothly on an operand. Gradients differentiate again, however they are found.
- **dtypes**: what becomes of the operands before they are computed with. Without an entry they stay as they are.

| dtypes | |
|---|---|
{rules}
"""

KERNELS_PAGE: Final = """\
# The kernels of a backend

What reaches the kernels of the {count} primitives once the core has checked and promoted it: buffers of the dtypes named, all
on one device, and attributes in canonical form. A kernel checks, promotes and normalises nothing; it returns a buffer of
exactly the shape and dtype that the core has worked out. [Write a backend](write-a-backend.md) says how to supply them,
[the ops](ops.md) what they compute in full. This page is made by `make docs`, which sends the samples of every op through its
front door in every dtype and notes what comes out.

- **dtypes**: *any* is {any}; *numbers* are all but bool, *floating* the last four.
- **attributes**: keyword arguments of the kernel, with the types that occur and an example. There are no others.

"""

DECLARATIONS_PAGE: Final = """\
# Declarations

What the author of a plugin writes, besides what computes: what is registered, what is declared of it so that `needle conform`
can prove it, and the front doors of ops. [Write an op](write-an-op.md) and [Write an optimizer](write-an-optimizer.md) show
these in use. This page is made from signatures and docstrings by `make docs`.

## registrar

What a hook is given. A hook is a function of the plugin that `needle_core.plugins.hookimpl` marks.

{registrar}

Every check has an id, OP/CHECK/SAMPLE/DTYPE/LAYOUT, which `needle conform NAME --list` prints. `expect_failure` takes one of
them or a pattern, as file names have it:

```python
registrar.expect_failure("bell/gradient/*/bfloat16*", "the device flushes subnormal numbers", until="2027-06-30")
registrar.roundoff("exp", "float32", 2.0**-21, "the device's own exponential, good to three bits less")
```

## Case

The fields of `registrar.case(name, reference, samples, ...)`.

```text
{case}
```

{case_fields}

The reference computes in NumPy and knows no backend. It gets the operands as arrays, float64 or complex128, integers as
int64, and the attributes as the sample has them. **Of an op with several outputs it returns a tuple**, one array for each;
`result` then gives one dtype for all of them, or a tuple of dtypes. The extra ops have
[an example](../plugins/extra_ops/needle_extra_ops/samples.py).

`FLOATING` is {floating}; `NUMBERS` are these and {integers}; `EVERY` has bool too.

## Samples

From `needle_core.testing.samples`. Each sample is a call, `sample(real(2, 3, low=0.5), index(2, below=3), axis=0)`: inputs of
a shape, with the fields of `Input` below as keywords, and attributes. `unary(real(low=0.5))`, `binary` and `reduced` make
samples of the shapes that matter to most ops. Functions of a dtype are for `result`, as in `result=floats` or
`result=always("bool")`.

{helpers}

```text
{input}
```

{input_fields}

## OptimizerCase

From `needle_core.testing.optimizers`; `registrar.optimizer_case` takes one.

```text
{optimizer}
```

{optimizer_fields}

## Front doors

From `needle_core.doors`. A door takes the Specs of the operands and the attributes; it returns the Spec of the result, or a
tuple of Specs, and the attributes as body, rules and kernels are to see them. `@ndl.composite(door)` and `@ndl.primitive(door)`
take one of these, or one of your own. *dtypes* is the rule by which operands are promoted before the door is asked; without
one they stay as they are.

{doors}

`@promoting(rule)` gives a door of your own one of the rules:

{rules}

And these help to put attributes into one form:

{forms}
"""


def pages() -> dict[str, str]:
    """The generated pages, by file name."""
    return {"ops.md": _ops_page(), "kernels.md": _kernels_page(), "declarations.md": _declarations_page()}


# -- the ops ----------------------------------------------------------------------------------------------------------------


def _ops_page() -> str:
    every = [op for family in FAMILIES for _, op in _members(family) if isinstance(op, Op)]
    used = {_dtypes(op): rule for op in every if (rule := _promotion(op)) and rule.__doc__}
    head = OPS_PAGE.format(
        count=len(every),
        primitives=sum(op.is_primitive for op in every),
        rules="\n".join(f"| {name} | {_first_line(rule)} |" for name, rule in used.items()),
    )
    return "\n".join([head, *map(_family, FAMILIES)])


def _family(family: ModuleType) -> str:
    members = list(_members(family))
    rows = [_row("op", "kind", "gradient", "dtypes", ""), "|---|---|---|---|---|"]
    rows += [
        _row(_link(name, op), _kind(op), _gradient(op), _dtypes(op) if isinstance(op, Op) else "", _first_line(op))
        for name, op in members
    ]
    more = [f"#### {name}\n\n```text\n{_signature(name, op)}\n\n{rest}\n```\n" for name, op in members if (rest := _rest(op))]
    return "\n".join([f"## {family.__name__.rpartition('.')[2]}\n", f"{_first_line(family)}\n", *rows, "", *more])


def _members(family: ModuleType) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(family, name)) for name in family.__all__)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _link(name: str, op: Callable[..., Any]) -> str:
    written = f"`{_signature(name, op)}`"
    return f"[{written}](#{name})" if _rest(op) else written


def _signature(name: str, op: Callable[..., Any]) -> str:
    """Name and parameters, without types."""
    signature = op.signature if isinstance(op, Op) else inspect.signature(op)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return f"{name}{signature.replace(parameters=bare, return_annotation=signature.empty)}"


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _rest(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[2].strip("\n")


def _kind(op: object) -> str:
    if not isinstance(op, Op):
        return "function"
    return ("primitive" if op.is_primitive else "composite") + ", product" * op.is_product


def _gradient(op: object) -> str:
    if not isinstance(op, Op):
        return ""
    if op.rules is not None:
        without = [name for name, rule in zip(op.operands, op.rules, strict=True) if rule is None]
        return "none" if len(without) == len(op.rules) else f"rules; none for {', '.join(without)}" if without else "rules"
    if op.joint is not None:
        return "joint rule"
    return "none" if op.is_primitive or CASES[op.name].gradient is None else "through its body"


def _promotion(op: Op[..., Any]) -> Any:
    return getattr(op.door, "promotion", None)


def _dtypes(op: Op[..., Any]) -> str:
    """The name of the door's dtype rule, as the legend has it."""
    rule = _promotion(op)
    return "" if rule is None else rule.__name__.strip("_").removeprefix("to_").removeprefix("as_").replace("_", " ")


# -- the kernels ------------------------------------------------------------------------------------------------------------


def _kernels_page() -> str:
    primitives = {family: [op for _, op in _members(family) if isinstance(op, Op) and op.is_primitive] for family in FAMILIES}
    page = [KERNELS_PAGE.format(count=sum(map(len, primitives.values())), any=", ".join(DTYPES))]
    for family, found in primitives.items():
        if found:
            page += [f"## {family.__name__.rpartition('.')[2]}\n", _row("kernel", "dtypes", "result", "attributes", "computes")]
            page += ["|---|---|---|---|---|", *map(_kernel, found), ""]
    return "\n".join(page)


def _kernel(op: Op[..., Any]) -> str:
    """What a kernel gets and returns, as seen in the calls of the op's samples."""
    calls = [call for sample in CASES[op.name].samples for d in DTYPES.values() if (call := _call(op, sample, d))]
    names = [name.lstrip("*") for name in op.operands]
    dtypes = [_named({specs[i].dtype.name for specs, _, _ in calls}) for i in range(len(names))]
    taken = [f"{name} {d}" for name, d in zip(names, dtypes, strict=True)] if len(set(dtypes)) > 1 else dtypes[:1]
    attributes = {name: [attrs[name] for _, _, attrs in calls] for name in calls[0][2]}
    star = ["*"] if attributes and names == [*op.operands] else []  # after *arrays, keywords need none
    kernel = f"`{op.name}({', '.join([*op.operands, *star, *attributes])})`"
    shown = [f"`{name}: {_types(values)}`{_example(values)}" for name, values in attributes.items()]
    linked = f"[{kernel}](ops.md#{op.name})" if _rest(op) else kernel
    return _row(linked, ", ".join(taken), _result(names, calls), "; ".join(shown), _first_line(op))


def _call(op: Op[..., Any], sample: Sample, dtype: DType) -> Call | None:
    """Operands, result and attributes of a kernel's call for a sample; None if the door refuses the dtype."""
    fixed = {"real": dtype, "index": dtype if dtype.is_integer else DTYPES["int64"], "mask": DTYPES["bool"]}
    dtypes = [fixed[i.kind] for i in sample.inputs]
    rule = _promotion(op) or (lambda *dtypes: dtypes)
    shapes = [array.shape for array in sample.draw(op.name)]
    specs = tuple(Spec.of(shape, d, default_device()) for shape, d in zip(shapes, rule(*dtypes), strict=True))
    try:
        return specs, *op.door(*specs, **sample.arguments)
    except NeedleError:
        return None


def _named(dtypes: set[str]) -> str:
    """A set of dtypes in words."""
    integers = [name for name, d in DTYPES.items() if d.is_integer]
    known = {
        "any": EVERY,
        "numbers": NUMBERS,
        "floating": FLOATING,
        "floating or int64": (*FLOATING, "int64"),
        "integers": integers,
    }
    return next((words for words, names in known.items() if dtypes == set(names)), " or ".join(sorted(dtypes)))


def _result(names: list[str], calls: list[Call]) -> str:
    """The dtype of the result: that of an operand or of an attribute, if it always is, or its name."""
    for i, name in enumerate(names):
        if all(specs[i].dtype is result.dtype for specs, result, _ in calls):
            return f"as {name}"
    if all(attrs.get("dtype") is result.dtype for _, result, attrs in calls):
        return "`dtype`"
    return _named({result.dtype.name for _, result, _ in calls})


def _types(values: list[Any]) -> str:
    return " | ".join(sorted({_type(value) for value in values if value != ()}))


def _type(value: Any) -> str:
    if not isinstance(value, tuple):
        return "None" if value is None else type(value).__name__
    return f"tuple[{' | '.join(sorted({_type(v) for v in value}))}, ...]"


def _example(values: list[Any]) -> str:
    """The longest value, where it shows more than its type."""
    return f", as in `{max(map(str, values), key=len)}`" if isinstance(values[0], tuple) else ""


# -- the declarations -------------------------------------------------------------------------------------------------------


def _declarations_page() -> str:
    public = _functions(doors)
    openings = [f for f in public if f.__annotations__["return"] == "Result"]
    rules = [f for f in public if f.__name__.startswith(("to_", "as_"))]
    forms = [f for f in public if f not in (*openings, *rules, doors.promoting)]
    helpers = [f for f in _functions(samples) if f is not samples.declare]
    methods = [(f, hook) for f in _functions(Registrar) for hook in re.findall(r'_belongs_to\("(\w+)"\)', inspect.getsource(f))]
    return DECLARATIONS_PAGE.format(
        registrar=_table("method | in the hook", [(_method(f), f"`{hook}`", _joined(f)) for f, hook in methods]),
        case=inspect.getdoc(Case),
        case_fields=_fields(Case),
        floating=", ".join(FLOATING),
        integers=", ".join(name for name in NUMBERS if name not in FLOATING),
        helpers=_table("helper | gives", [(_called(f), f"`{f.__annotations__['return']}`", _joined(f)) for f in helpers]),
        input=inspect.getdoc(Input),
        input_fields=_fields(Input),
        optimizer=inspect.getdoc(OptimizerCase),
        optimizer_fields=_fields(OptimizerCase),
        doors=_table("door | dtypes", [(_called(f), _ruled(f), _joined(f)) for f in openings]),
        rules=_table("rule", [(f"`{f.__name__}`", _joined(f)) for f in rules]),
        forms=_table("function", [(_called(f), _joined(f)) for f in forms]),
    )


def _functions(home: ModuleType | type) -> list[FunctionType]:
    """The public functions that a module or a class defines, in the order of their source."""
    module = home.__name__ if isinstance(home, ModuleType) else home.__module__
    found = (f for f in vars(home).values() if isinstance(f, FunctionType) and not f.__name__.startswith("_"))
    return sorted((f for f in found if f.__module__ == module), key=lambda f: inspect.unwrap(f).__code__.co_firstlineno)


def _table(head: str, rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join([f"| {head} | |", f"|{'---|' * len(rows[0])}", *(_row(*row) for row in rows)])


def _called(f: FunctionType) -> str:
    return f"`{_signature(f.__name__, f)}`"


def _joined(thing: object) -> str:
    """The docstring in one line."""
    return " ".join((inspect.getdoc(thing) or "").split())


def _method(f: FunctionType) -> str:
    """A method of the registrar and its parameters, with types."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(f))).body
    assert isinstance(definition, ast.FunctionDef)
    del definition.args.args[0]
    return f"`{f.__name__}({ast.unparse(definition.args)})`"


def _ruled(door: FunctionType) -> str:
    rule = getattr(door, "promotion", None)
    return f"`{rule.__name__}`" if rule else ""


def _fields(cls: type) -> str:
    """The fields of a dataclass, as its source has them."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    rows = [
        (f"`{ast.unparse(f.target)}`", f"`{ast.unparse(f.annotation)}`", f"`{_default(f.value)}`" if f.value else "")
        for f in definition.body
        if isinstance(f, ast.AnnAssign)
    ]
    return _table("field | type", rows).replace("| |", "| default |", 1)


def _default(value: ast.expr) -> str:
    """The default of a field; of a factory, what it makes."""
    factories = [k.value for k in value.keywords if k.arg == "default_factory"] if isinstance(value, ast.Call) else []
    return f"{ast.unparse(factories[0])}()" if factories else ast.unparse(value)


if __name__ == "__main__":
    for file, text in pages().items():
        (Path(__file__).parent / file).write_text(text, encoding="utf-8")
