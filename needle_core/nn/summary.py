"""The table that `Module.summary` returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from needle_core import tree
from needle_core.autograd import no_grad
from needle_core.nn.module import Buffer, Module, Place
from needle_core.tensor import Tensor


def summarize(root: Module, inputs: Sequence[Any]) -> str:
    """One line a module, and the totals; with `inputs`, also the shapes that each module returned last."""
    outputs = _outputs(root, inputs) if inputs else {}
    places = [place for place in root._places() if not isinstance(place.value, Buffer)]
    first = {place.key: place for place in reversed(places)}
    rows = [["name", "layer", "parameters", "count", "output"]]
    for name, module in root.named_modules():
        own = [place for place in places if place.module == name]
        count = f"{sum(p.value.size for p in own if first[p.key] is p):,}" if own else ""
        shown = ", ".join(_parameter(place, first[place.key]) for place in own)
        rows.append([name, _layer(module), shown, count, outputs.get(name, "not called")])
    return "\n".join([*_aligned(rows if inputs else [row[:-1] for row in rows]), _total(root)])


def _parameter(place: Place, first: Place) -> str:
    return f"{place.local} {list(place.value.shape)}" if place is first else f"{place.local} = {first.name}"


def _layer(module: Module) -> str:
    settings = module.extra_repr()
    return type(module).__name__ + (f"({settings})" if settings or not module.children() else "")


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines, the columns two spaces apart; the fourth holds numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    directions = ("<", "<", "<", ">", "<")
    return ["  ".join(map("{:{}{}}".format, row, directions, widths)).rstrip() for row in rows]


def _total(root: Module) -> str:
    parameters, buffers = root.parameters(), root.buffers()
    text = f"{sum(p.size for p in parameters):,} parameters, {sum(p.spec.nbytes for p in parameters):,} bytes"
    if frozen := sum(p.size for p in parameters if not p.requires_grad):
        text += f"; {frozen:,} of them frozen"
    if buffers:
        text += f"; buffers of {sum(b.spec.nbytes for b in buffers):,} bytes"
    return text


def _outputs(root: Module, inputs: Sequence[Any]) -> dict[str, str]:
    """The shapes that each module returns in a run of `root` on `inputs`, by name. Attributes are left as they were."""
    found: dict[str, str] = {}
    modules = root.named_modules()
    before = [dict(vars(m)) for _, m in modules]
    root.eval()
    for name, module in modules:
        vars(module)["forward"] = _watched(module.forward, name, found)
    try:
        with no_grad():
            root(*inputs)
    finally:
        for (_, module), attributes in zip(modules, before, strict=True):
            vars(module).clear()
            vars(module).update(attributes)
    return found


def _watched(forward: Callable[..., Any], name: str, found: dict[str, str]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        value = forward(*args, **kwargs)
        found[name] = ", ".join(str(list(t.shape)) for t in tree.flatten(value)[0] if isinstance(t, Tensor))
        return value

    return run
