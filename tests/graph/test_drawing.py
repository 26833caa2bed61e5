"""Graphs as Graphviz source and as HTML pages: well formed, complete, and safe with any name."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import needle_core as ndl
from needle_core import nn
from needle_core.graph.drawing import MANY, dot, page
from needle_core.graph.graph import Graph
from tests.graph.captures import graph_of, of

VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """What a page has in it; refuses tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        if tag not in VOID | {"th"} and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(found["id"])
        if found.get("href"):
            self.links.append(found["href"])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def step() -> Graph:
    """A training step."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    opt = ndl.optim.Adam(model.parameters(), lr=0.1)

    @ndl.compile
    def train(x: ndl.Tensor, y: ndl.Tensor) -> ndl.Tensor:
        opt.reset_grad()
        loss = ndl.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    train(ndl.ones((3, 4)), ndl.Tensor([0, 1, 1]))
    return train.graph


def test_the_page_has_each_value_once_and_no_link_leads_nowhere(step: Graph) -> None:
    shown = Page(step.to_html("step"))
    values = len(step.names())
    assert len(shown.ids) == len(set(shown.ids)) == values
    assert {link.removeprefix("#") for link in shown.links} <= set(shown.ids)
    rows = 1 + len(step.inputs) + len(step.constants()) + len(step.nodes)
    assert shown.tags.count("tr") == rows


def test_the_page_has_a_picture_of_small_graphs(step: Graph) -> None:
    assert Page(step.to_html()).tags.count("rect") == len(step.inputs) + len(step.nodes)

    def deep(x: ndl.Tensor) -> ndl.Tensor:
        for _ in range(MANY + 1):
            x = ndl.exp(x)
        return x

    assert "svg" not in Page(graph_of(deep, of([1.0])).to_html()).tags


def test_the_page_needs_nothing_else(step: Graph) -> None:
    text = step.to_html()
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_names_from_outside_are_text() -> None:
    graph = graph_of(lambda x: ndl.exp(x), of([1.0]))
    (node,) = graph.nodes
    node.source = '<script>alert("x")</script>.py:1'
    shown = Page(page([('<img src="x" onerror="y">', graph)]))
    assert shown.tags.count("script") == 1
    assert "img" not in shown.tags
    assert any("onerror" in text for text in shown.texts)


def test_pages_of_several_graphs_have_ids_of_their_own(step: Graph) -> None:
    shown = Page(page([("one", step), ("two", step)]))
    assert len(set(shown.ids)) == 2 * len(step.names())
    assert shown.tags.count("h1") == 2


def test_parts_of_fused_nodes_are_shown(step: Graph) -> None:
    assert "sqrt(" in step.to_html()
    assert "sqrt" in step.to_dot()


def test_edges_of_graphviz_source_join_what_is_declared(step: Graph) -> None:
    text = step.to_dot()
    declared = re.findall(r"^  (\w+) \[label=", text, re.MULTILINE)
    edges = re.findall(r"^  (\w+) -> (\w+)", text, re.MULTILINE)
    assert len(declared) == len(set(declared)) == len(step.inputs) + len(step.constants()) + len(step.nodes) + len(step.outputs)
    assert {end for edge in edges for end in edge} <= set(declared)
    assert len(edges) == sum(len(node.inputs) for node in step.nodes) + len(step.outputs)


def test_quotes_and_line_ends_are_escaped_in_graphviz_source() -> None:
    graph = graph_of(lambda x: ndl.exp(x), of(np.ones(2)))
    graph.nodes[0].source = 'a "quoted\\ name".py:1'
    assert r'tooltip="a \"quoted\\ name\".py:1"' in dot(graph)
    assert dot(graph, 'x"y').startswith(r'digraph "x\"y" {')
