"""Graphs to look at: as Graphviz source, and as a page of HTML that needs nothing but itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from needle_core.graph.graph import Constant, Fused, Graph, Node, Value

MANY: Final = 250
"""Nodes from which on a page has no picture: nobody finds anything in it."""


# -- Graphviz ---------------------------------------------------------------------------------------------------------------


def dot(graph: Graph, title: str = "graph") -> str:
    """Source for Graphviz: a box for each node, ellipses for what comes in and what goes out."""
    names = graph.names()
    made: dict[Value, str] = {y: f"n{i}" for i, node in enumerate(graph.nodes) for y in node.outputs}
    lines = [f"digraph {_quoted(title)} {{", "  node [fontname=monospace fontsize=10]; edge [fontname=monospace fontsize=8];"]
    for kind, values in (("i", graph.inputs), ("c", graph.constants())):
        for i, v in enumerate(values):
            made[v] = f"{kind}{i}"
            lines.append(f"  {made[v]} [label={_quoted(f'{names[v]}: {v.spec}')} shape=ellipse];")
    for i, node in enumerate(graph.nodes):
        lines.append(f"  n{i} [label={_quoted(_label(node))} tooltip={_quoted(node.source)} shape=box];")
        lines += [f"  {made[v]} -> n{i} [label={_quoted(str(v.spec))}];" for v in node.inputs]
    for i, v in enumerate(graph.outputs):
        lines += [f"  o{i} [label={_quoted(f'output {i}')} shape=ellipse];", f"  {made[v]} -> o{i};"]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _label(node: Node) -> str:
    """What a node does, with its attributes, or with its parts."""
    if isinstance(node, Fused):
        return "\n".join(["fused", *(_label(part) for part in node.body.nodes)])
    return ", ".join([node.name, *(f"{name}={value}" for name, value in node.attrs.items())])


# -- HTML -------------------------------------------------------------------------------------------------------------------


def page(graphs: Iterable[tuple[str, Graph]]) -> str:
    """A page with a section for each title and graph: what is in it, a picture if it is small, and a list of its values."""
    sections = [section for i, (title, graph) in enumerate(graphs) for section in _section(f"g{i}", title, graph)]
    return "\n".join([_HEAD, *sections, f"<script>{_SCRIPT}</script></body></html>"])


def _section(key: str, title: str, graph: Graph) -> list[str]:
    names = graph.names()
    ids = {v: f"{key}-{i}" for i, v in enumerate(names)}
    ops = ", ".join(f"{n} {op}" for op, n in Counter(node.name for node in graph.nodes).most_common())
    nbytes = sum(y.spec.nbytes for node in graph.nodes for y in node.outputs)
    return [
        f"<h1>{escape(title)}</h1>",
        f"<p>{len(graph.nodes)} nodes, which give {nbytes:,} bytes: {escape(ops) or 'none'}</p>",
        *(_picture(graph, names, ids) if len(graph.nodes) <= MANY else []),
        '<input class="search" placeholder="search" aria-label="search">',
        "<table><thead><tr><th>value<th>is<th>operands<th>spec<th>bytes<th>line</tr></thead><tbody>",
        *(_row(ids, names, [v], "input") for v in graph.inputs),
        *(_row(ids, names, [c], "constant") for c in graph.constants()),
        *(_row(ids, names, node.outputs, _written(node), node) for node in graph.nodes),
        "</tbody></table>",
        f"<p>returns {_links(ids, names, graph.outputs)}</p>",
    ]


def _row(
    ids: Mapping[Value, str], names: Mapping[Value, str], made: Sequence[Value], what: str, node: Node | None = None
) -> str:
    cells = [
        " ".join(f'<b id="{ids[v]}" data-v="{ids[v]}">{escape(names[v])}</b>' for v in made),
        what,
        _links(ids, names, node.inputs) if node is not None else "",
        "<br>".join(escape(str(v.spec)) for v in made),
        f"{sum(v.spec.nbytes for v in made):,}",
        escape(node.source) if node is not None else "",
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _written(node: Node) -> str:
    """What a node does; the parts of a fused one unfold."""
    if isinstance(node, Fused):
        parts = "\n".join(str(node.body).splitlines()[len(node.inputs) :])
        return f"<details><summary>fused, {len(node.body.nodes)} nodes</summary><pre>{escape(parts)}</pre></details>"
    return escape(_label(node))


def _links(ids: Mapping[Value, str], names: Mapping[Value, str], values: Iterable[Value]) -> str:
    return ", ".join(f'<a href="#{ids[v]}" data-v="{ids[v]}">{escape(names[v])}</a>' for v in values)


_WIDE, _HIGH, _GAP = 150, 24, 36


def _picture(graph: Graph, names: Mapping[Value, str], ids: Mapping[Value, str]) -> list[str]:
    """Nodes in rows, each below all that it reads, and in a row in the order of what they read."""
    rows: list[list[tuple[float, Node | Value]]] = []
    row_of: dict[Value, int] = {}
    column: dict[Value, float] = {}
    items: list[tuple[Node | Value, tuple[Value, ...]]] = [(v, (v,)) for v in graph.inputs]
    items += [(node, node.outputs) for node in graph.nodes]
    for item, made in items:
        read = [v for v in item.inputs if not isinstance(v, Constant)] if isinstance(item, Node) else []
        row = 1 + max((row_of[v] for v in read), default=-1)
        rows += [[] for _ in range(row + 1 - len(rows))]
        place = max(sum(column[v] for v in read) / len(read) if read else 0.0, *(x + 1 for x, _ in rows[row][-1:]), 0.0)
        rows[row].append((place, item))
        row_of |= dict.fromkeys(made, row)
        column |= dict.fromkeys(made, place)
    boxes, edges = [], []
    for y, row_items in enumerate(rows):
        for x, item in row_items:
            value: Value = item.outputs[0] if isinstance(item, Node) else item
            text, told = (item.name, _label(item)) if isinstance(item, Node) else (names[item], str(item.spec))
            left, top = x * (_WIDE + 10) + 5, y * (_HIGH + _GAP) + 5
            boxes.append(
                f'<a href="#{ids[value]}" data-v="{ids[value]}">'
                f'<rect x="{left:.0f}" y="{top}" width="{_WIDE}" height="{_HIGH}" rx="4"/>'
                f'<text x="{left + 6:.0f}" y="{top + 16}">{escape(text[:20])}</text><title>{escape(told)}</title></a>'
            )
            for v in item.inputs if isinstance(item, Node) else ():
                if not isinstance(v, Constant):
                    start = column[v] * (_WIDE + 10) + 5 + _WIDE / 2, row_of[v] * (_HIGH + _GAP) + 5 + _HIGH
                    edges.append(f'<path d="M{start[0]:.0f} {start[1]:.0f}L{left + _WIDE / 2:.0f} {top}"/>')
    width = max((x for row_items in rows for x, _ in row_items), default=0) * (_WIDE + 10) + _WIDE + 10
    height = len(rows) * (_HIGH + _GAP)
    size = f'width="{width:.0f}" height="{height}" viewBox="0 0 {width:.0f} {height}"'
    return [f'<div class="picture"><svg xmlns="http://www.w3.org/2000/svg" {size}>', *edges, *boxes, "</svg></div>"]


_HEAD: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>graphs</title><style>
:root { color-scheme: light dark; --line: #8886; --mark: #fc06; }
body { font: 13px monospace; margin: 2em; }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: 2px 12px 2px 0; }
tr { border-bottom: 1px solid var(--line); } pre { margin: 0; }
.picture { overflow: auto; max-height: 60vh; border: 1px solid var(--line); margin-bottom: 1em; }
rect { fill: transparent; stroke: currentColor; } text { fill: currentColor; } path { stroke: var(--line); fill: none; }
.marked { background: var(--mark); } .marked rect { fill: var(--mark); } :target { outline: 2px solid; }
</style></head><body>"""

_SCRIPT: Final = """
for (const search of document.querySelectorAll(".search"))
  search.oninput = () => {
    for (const row of search.nextElementSibling.tBodies[0].rows) row.hidden = !row.textContent.includes(search.value);
  };
document.onmouseover = event => {
  const value = event.target.closest("[data-v]")?.dataset.v;
  for (const element of document.querySelectorAll("[data-v]")) element.classList.toggle("marked", element.dataset.v === value);
};
"""
